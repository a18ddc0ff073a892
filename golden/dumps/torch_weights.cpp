#include "golden/dumps/torch_weights.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "golden/descriptor.h"
#include "golden/dumps/formats.h"
#include "golden/dumps/value.h"
#include "harness/types/error.h"

namespace meshparity::dumps {
namespace {

DType weight_dtype(Element element, const std::string& file, const std::string& name) {
  switch (element) {
    case Element::f64:
      return DType::float64;
    case Element::f32:
      return DType::float32;
    case Element::f16:
      return DType::float16;
    case Element::bf16:
      return DType::bfloat16;
    case Element::i64:
      return DType::int64;
    case Element::i32:
      return DType::int32;
    case Element::u8:
      return DType::uint8;
    case Element::boolean:
      return DType::boolean;
    default:
      throw InputError(file, name, "has a dtype that no weight has");
  }
}

// A whole file, read where it is looked at.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    const golden::Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat info {};
    if (file.get() < 0 || ::fstat(file.get(), &info) != 0)
      throw InputError(path + ": cannot be read: " + std::strerror(errno));
    bytes_ = static_cast<std::size_t>(info.st_size);
    void* at = bytes_ ? ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, file.get(), 0) : MAP_FAILED;
    if (at == MAP_FAILED) throw InputError(path + ": cannot be read: " + std::strerror(errno));
    data_ = static_cast<const std::byte*>(at);
  }
  ~MappedFile() { ::munmap(const_cast<std::byte*>(data_), bytes_); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  const std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  void forget() const { ::madvise(const_cast<std::byte*>(data_), bytes_, MADV_DONTNEED); }

 private:
  const std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

struct TorchContent {
  explicit TorchContent(const std::string& path) : file(path) {}
  MappedFile file;
  std::vector<std::unique_ptr<std::vector<std::byte>>> copies;
};

bool holds_arrays(const Value& value) {
  return std::any_of(value.members.begin(), value.members.end(),
                     [](const auto& member) { return member.second->kind == Value::Kind::array; });
}

const Value& state_dict(const Tree& tree) {
  const Value* root = tree.root;
  // Two levels: {"model": {"state_dict": ...}} is as deep as checkpoints go.
  for (int level = 0; level < 2 && root && root->kind == Value::Kind::dictionary && !holds_arrays(*root);
       ++level)
    for (const char* name : {"model", "state_dict", "model_state_dict", "module"})
      if (const Value* inner = root->member(name); inner && inner->kind == Value::Kind::dictionary) {
        root = inner;
        break;
      }
  if (!root || root->kind != Value::Kind::dictionary || !holds_arrays(*root))
    throw InputError(tree.file() +
                     ": holds no state dict: no dictionary of tensors, also not under model, state_dict, "
                     "model_state_dict or module");
  return *root;
}

// Strides of dimensions of one element mean nothing: torch writes any.
bool is_contiguous(const Array& array) {
  const std::vector<std::int64_t> whole = contiguous_strides(array.shape);
  for (std::size_t i = 0; i < whole.size(); ++i)
    if (array.shape[i] != 1 && array.strides[i] != whole[i]) return false;
  return true;
}

// Elements in C order, bit by bit; `mapped` is the whole file, or null where the array lies elsewhere.
std::vector<std::byte> copy_of(const Array& array, const std::byte* mapped) {
  const std::size_t size = element_size(array.element);
  std::vector<std::byte> out(static_cast<std::size_t>(array.numel()) * size);
  std::vector<std::int64_t> at(array.shape.size(), 0);
  for (std::size_t done = 0; done < out.size(); done += size) {
    std::int64_t place = 0;
    for (std::size_t i = 0; i < at.size(); ++i) place += at[i] * array.strides[i];
    const std::uint64_t from = array.offset + static_cast<std::uint64_t>(place) * size;
    if (mapped)
      std::memcpy(out.data() + done, mapped + from, size);
    else
      array.bytes->read(from, out.data() + done, size);
    for (std::size_t i = at.size(); i-- > 0;) {
      if (++at[i] < array.shape[i]) break;
      at[i] = 0;
    }
  }
  return out;
}

}  // namespace

bool is_torch_file(const std::string& path) {
  const BytesRef bytes = open_bytes(path);
  char magic[4] = {};
  if (bytes->size() < 4) return false;
  bytes->read(0, magic, 4);
  return std::memcmp(magic, "PK\x03\x04", 4) == 0 || std::memcmp(magic, "\x80\x02", 2) == 0;
}

golden::WeightViews torch_weights(const std::string& path) {
  const TreeRef tree = read_torch(path);
  const Value& state = state_dict(*tree);
  const auto content = std::make_shared<TorchContent>(path);
  const std::string wrapper = "module.";
  bool wrapped = true;
  for (const auto& [name, value] : state.members)
    if (value->kind == Value::Kind::array) wrapped &= name.rfind(wrapper, 0) == 0;
  golden::WeightViews views;
  for (const auto& [name, value] : state.members) {
    if (value->kind != Value::Kind::array) continue;
    const Array& array = value->array;
    TensorView view{weight_dtype(array.element, path, name), array.shape, nullptr};
    // The array was checked against the size that its bytes had; the same file has it still, or is read
    // again.
    const bool mapped = array.bytes->in_file() && content->file.bytes() == array.bytes->size();
    if (mapped && is_contiguous(array)) {
      view.data = content->file.data() + array.offset;
    } else {
      content->copies.push_back(
          std::make_unique<std::vector<std::byte>>(copy_of(array, mapped ? content->file.data() : nullptr)));
      view.data = content->copies.back()->data();
    }
    views.views.emplace_back(wrapped ? name.substr(wrapper.size()) : name, view);
  }
  views.owner = content, views.forget = [content] { content->file.forget(); };
  return views;
}

}  // namespace meshparity::dumps

#include "golden/dumps/value.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "golden/descriptor.h"
#include "harness/types/error.h"
#include "harness/types/tensor.h"

namespace meshparity::dumps {
namespace {

class FileBytes : public Bytes {
 public:
  explicit FileBytes(const std::string& file)
      : Bytes(file), descriptor_(::open(file.c_str(), O_RDONLY | O_CLOEXEC)) {
    struct stat info {};
    if (descriptor_.get() < 0 || ::fstat(descriptor_.get(), &info) != 0)
      throw InputError(file + ": cannot be read: " + std::strerror(errno));
    if (!S_ISREG(info.st_mode)) throw InputError(file + ": is not a file");
    size_ = static_cast<std::uint64_t>(info.st_size);
  }
  std::uint64_t size() const override { return size_; }
  bool in_file() const override { return true; }
  void read(std::uint64_t at, void* out, std::size_t bytes) const override {
    auto* to = static_cast<char*>(out);
    while (bytes > 0) {
      const ssize_t n = ::pread(descriptor_.get(), to, bytes, static_cast<off_t>(at));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) throw InputError(file_ + ": damaged (it ends early)");
      to += n, at += static_cast<std::uint64_t>(n), bytes -= static_cast<std::size_t>(n);
    }
  }

 private:
  golden::Descriptor descriptor_;
  std::uint64_t size_ = 0;
};

class MemoryBytes : public Bytes {
 public:
  MemoryBytes(const std::string& file, std::vector<std::byte> content)
      : Bytes(file), content_(std::move(content)) {}
  std::uint64_t size() const override { return content_.size(); }
  void read(std::uint64_t at, void* out, std::size_t bytes) const override {
    if (at > content_.size() || bytes > content_.size() - at)
      throw InputError(file_ + ": damaged (it ends early)");
    if (bytes > 0) std::memcpy(out, content_.data() + at, bytes);
  }

 private:
  std::vector<std::byte> content_;
};

template <class T>
T element_as(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

double element_value(Element element, const std::byte* at) {
  switch (element) {
    case Element::f64:
      return element_as<double>(at);
    case Element::f32:
      return static_cast<double>(element_as<float>(at));
    case Element::f16:
      return TensorView{DType::float16, {1}, at}.at(0);
    case Element::bf16:
      return TensorView{DType::bfloat16, {1}, at}.at(0);
    case Element::i64:
      return static_cast<double>(element_as<std::int64_t>(at));
    case Element::i32:
      return element_as<std::int32_t>(at);
    case Element::i16:
      return element_as<std::int16_t>(at);
    case Element::i8:
      return element_as<std::int8_t>(at);
    case Element::u64:
      return static_cast<double>(element_as<std::uint64_t>(at));
    case Element::u32:
      return element_as<std::uint32_t>(at);
    case Element::u16:
      return element_as<std::uint16_t>(at);
    case Element::u8:
      return element_as<std::uint8_t>(at);
    case Element::boolean:
      return element_as<std::uint8_t>(at) ? 1 : 0;
  }
  return 0;
}

// Elements of the last dimension, `stride` apart, appended.
void read_line(const Array& array, std::uint64_t first, std::int64_t count, std::int64_t stride,
               std::vector<double>& out) {
  const std::size_t bytes = element_size(array.element);
  std::vector<std::byte> buffer;
  constexpr std::int64_t kAtOnce = 1 << 16;
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t n = stride == 1 ? std::min(kAtOnce, count - done) : 1;
    buffer.resize(static_cast<std::size_t>(n) * bytes);
    array.bytes->read(first + static_cast<std::uint64_t>(done * stride) * bytes, buffer.data(),
                      buffer.size());
    for (std::int64_t i = 0; i < n; ++i)
      out.push_back(element_value(array.element, buffer.data() + static_cast<std::size_t>(i) * bytes));
    done += n;
  }
}

}  // namespace

BytesRef open_bytes(const std::string& file) {
  return std::make_shared<FileBytes>(file);
}

BytesRef bytes_of(const std::string& file, std::vector<std::byte> content) {
  return std::make_shared<MemoryBytes>(file, std::move(content));
}

std::size_t element_size(Element element) {
  switch (element) {
    case Element::f64:
    case Element::i64:
    case Element::u64:
      return 8;
    case Element::f32:
    case Element::i32:
    case Element::u32:
      return 4;
    case Element::f16:
    case Element::bf16:
    case Element::i16:
    case Element::u16:
      return 2;
    default:
      return 1;
  }
}

std::vector<std::int64_t> contiguous_strides(const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> strides(shape.size(), 1);
  for (std::size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  return strides;
}

void Array::check(const std::string& field) const {
  const auto damaged = [&](const std::string& what) { throw InputError(bytes->file(), field, what); };
  if (shape.size() != strides.size() || shape.size() > 8) damaged("has an impossible shape");
  const std::uint64_t size = element_size(element), whole = bytes->size();
  std::uint64_t last = 0, numel = 1;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 0 || strides[i] < 0) damaged("has an impossible shape");
    if (shape[i] == 0) return;
  }
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const auto n = static_cast<std::uint64_t>(shape[i]), stride = static_cast<std::uint64_t>(strides[i]);
    // An expanded tensor (stride 0) may claim more elements than it holds; nobody dumps logprobs so.
    if (n > whole / size || numel > whole / size / n) damaged("is larger than its file");
    numel *= n;
    if (n > 1 && stride > whole / size) damaged("is larger than its file");
    last += (n - 1) * stride;
    if (last > whole / size) damaged("is larger than its file");
  }
  if (offset > whole || (last + 1) * size > whole - offset) damaged("is larger than its file");
}

std::int64_t Array::numel() const {
  std::int64_t n = 1;
  for (const auto dimension : shape) n *= dimension;
  return n;
}

Array Array::row(std::int64_t index) const {
  Array part = *this;
  part.offset += static_cast<std::uint64_t>(index * strides[0]) * element_size(element);
  part.shape.erase(part.shape.begin()), part.strides.erase(part.strides.begin());
  return part;
}

Array Array::rows(std::int64_t begin, std::int64_t end) const {
  Array part = *this;
  part.offset += static_cast<std::uint64_t>(begin * strides[0]) * element_size(element);
  part.shape[0] = end - begin;
  return part;
}

std::vector<double> Array::read() const {
  std::vector<double> values;
  const std::int64_t all = numel();
  if (all == 0) return values;
  values.reserve(static_cast<std::size_t>(all));
  if (shape.empty()) {
    read_line(*this, offset, 1, 1, values);
    return values;
  }
  // A contiguous array is one line; else line by line of the last dimension.
  if (strides == contiguous_strides(shape)) {
    read_line(*this, offset, all, 1, values);
    return values;
  }
  std::vector<std::int64_t> at(shape.size(), 0);
  for (std::int64_t line = 0; line < all / shape.back(); ++line) {
    std::int64_t first = 0;
    for (std::size_t i = 0; i + 1 < shape.size(); ++i) first += at[i] * strides[i];
    read_line(*this, offset + static_cast<std::uint64_t>(first) * element_size(element), shape.back(),
              strides.back(), values);
    for (std::size_t i = shape.size() - 1; i-- > 0;) {
      if (++at[i] < shape[i]) break;
      at[i] = 0;
    }
  }
  return values;
}

std::vector<std::int64_t> Array::read_integers() const {
  const std::vector<double> values = read();
  std::vector<std::int64_t> whole;
  whole.reserve(values.size());
  for (const double value : values)
    whole.push_back(value >= -9e15 && value <= 9e15 ? static_cast<std::int64_t>(value) : -1);
  return whole;
}

const Value* Value::member(const std::string& name) const {
  for (const auto& [key, value] : members)
    if (key == name) return value;
  return nullptr;
}

Value* Tree::make(Value::Kind kind) {
  if (values_.size() >= kMostValues)
    throw InputError(file_ + ": holds more than " + std::to_string(kMostValues) +
                     " separate values: not a dump of logprobs (keep them in arrays or lists of numbers)");
  values_.emplace_back();
  values_.back().kind = kind;
  return &values_.back();
}

}  // namespace meshparity::dumps

#include "golden/weight_views.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "golden/safetensors.h"
#include "golden/store.h"
#include "harness/types/error.h"

namespace meshparity::golden {
namespace {

// A file in memory for as long as somebody looks at it.
class Mapping {
 public:
  Mapping(int descriptor, std::size_t bytes) : bytes_(bytes) {
    if (bytes_ == 0) return;
    void* at = ::mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, descriptor, 0);
    if (at == MAP_FAILED)
      throw InputError(std::string("temporary weights cannot be mapped: ") + std::strerror(errno));
    data_ = static_cast<const std::byte*>(at);
  }
  ~Mapping() {
    if (data_) ::munmap(const_cast<std::byte*>(data_), bytes_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  const std::byte* data() const { return data_; }
  void forget() const {
    if (data_) ::madvise(const_cast<std::byte*>(data_), bytes_, MADV_DONTNEED);
  }

 private:
  const std::byte* data_ = nullptr;
  std::size_t bytes_;
};

bool begins_as_hdf5(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  char magic[8] = {};
  in.read(magic, sizeof magic);
  return in && std::string(magic, 8) == "\x89HDF\r\n\x1a\n";
}

}  // namespace

WeightViews stored_views(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) throw InputError(path + ": no such file");
  WeightViews views;
  if (begins_as_hdf5(path)) {
    const auto store = std::make_shared<Store>(read(path, Kind::dump));
    const std::string group = "weights/";
    for (const auto& [name, tensor] : store->tensors)
      if (name.rfind(group, 0) == 0) views.views.emplace_back(name.substr(group.size()), tensor.view());
    if (views.views.empty()) throw InputError(path, "/weights", "holds no weight");
    views.owner = store;
    return views;
  }
  const auto file = std::make_shared<SafetensorsFile>(path);
  for (const std::string& name : file->names()) views.views.emplace_back(name, file->view(name));
  if (views.views.empty()) throw InputError(path + ": holds no weight");
  views.owner = file, views.forget = [file] { file->forget(); };
  return views;
}

WeightSpill::WeightSpill() {
  std::string name = (std::filesystem::temp_directory_path() / "meshparity-weights-XXXXXX").string();
  descriptor_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (descriptor_ < 0) throw InputError(name + ": cannot be written: " + std::strerror(errno));
  ::unlink(name.c_str());
}

WeightSpill::~WeightSpill() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void WeightSpill::add(const std::string& name, const TensorView& tensor) {
  const std::size_t bytes = static_cast<std::size_t>(tensor.numel()) * dtype_size(tensor.dtype);
  places_.push_back({name, tensor.dtype, tensor.shape, bytes_});
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t n =
        ::pwrite(descriptor_, tensor.data + done, bytes - done, static_cast<off_t>(bytes_ + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      throw InputError("temporary weights (" + std::filesystem::temp_directory_path().string() +
                       ") cannot be written: " + std::strerror(errno));
    done += static_cast<std::size_t>(n);
  }
  bytes_ += (bytes + 63) / 64 * 64;
}

WeightViews WeightSpill::views() {
  if (::ftruncate(descriptor_, static_cast<off_t>(bytes_)) != 0)
    throw InputError(std::string("temporary weights cannot be written: ") + std::strerror(errno));
  const auto mapping = std::make_shared<Mapping>(descriptor_, bytes_);
  WeightViews views;
  for (const Place& place : places_)
    views.views.emplace_back(place.name, TensorView{place.dtype, place.shape, mapping->data() + place.begin});
  views.owner = mapping, views.forget = [mapping] { mapping->forget(); };
  return views;
}

}  // namespace meshparity::golden

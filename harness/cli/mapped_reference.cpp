#include "harness/cli/mapped_reference.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "harness/cli/torch_bridge.h"
#include "harness/types/error.h"

namespace meshparity::cli {

MappedReference::MappedReference(const std::string& file, const std::string& index) {
  file_ = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info {};
  if (file_ < 0 || ::fstat(file_, &info) != 0)
    throw RunError(file + ": cannot be read: " + std::strerror(errno));
  bytes_ = static_cast<std::size_t>(info.st_size);
  void* const all = ::mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, file_, 0);
  if (all == MAP_FAILED) throw RunError(file + ": cannot be mapped: " + std::strerror(errno));
  mapped_ = static_cast<std::byte*>(all);
  const nlohmann::json parsed = nlohmann::json::parse(index);
  for (const auto& entry : parsed.at("tensors")) {
    const std::string path = entry.at("path"), dtype = entry.at("dtype");
    const Place place = {parse_dtype(dtype), entry.at("shape").get<Shape>(), entry.at("offset")};
    const TensorView view = {place.dtype, place.shape, mapped_ + place.offset};
    if (place.offset > bytes_ || view.bytes() > bytes_ - place.offset)
      throw RunError(file + ": " + path + " lies behind its end");
    const auto slash = path.find('/');
    if (path.rfind("expected/", 0) == 0) expected_.emplace(path.substr(slash + 1), view);
    if (path.rfind("weights/", 0) == 0) weights_.emplace(path.substr(slash + 1), place);
  }
}

MappedReference::~MappedReference() {
  if (mapped_) ::munmap(mapped_, bytes_);
  if (file_ >= 0) ::close(file_);
}

at::Tensor MappedReference::weight(const std::string& name) const {
  const auto found = weights_.find(name);
  if (found == weights_.end()) return {};
  const Place& place = found->second;
  const std::size_t bytes = TensorView{place.dtype, place.shape, nullptr}.bytes();
  const at::TensorOptions options(scalar_type_of(place.dtype));
  if (bytes == 0) return at::empty(place.shape, options);
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t before = place.offset % page, length = before + bytes;
  void* const part =
      ::mmap(nullptr, length, PROT_READ, MAP_SHARED, file_, static_cast<off_t>(place.offset - before));
  if (part == MAP_FAILED) throw RunError(name + ": cannot be mapped: " + std::strerror(errno));
  return at::from_blob(
      static_cast<std::byte*>(part) + before, place.shape, [part, length](void*) { ::munmap(part, length); },
      options);
}

}  // namespace meshparity::cli

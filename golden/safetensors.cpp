#include "golden/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "golden/descriptor.h"
#include "golden/limits.h"
#include "harness/types/atomic_file.h"
#include "harness/types/error.h"

namespace meshparity::golden {
namespace {

using nlohmann::json;

constexpr std::uint64_t kHeaderBytes = 100'000'000;  // the limit of the format's own library
constexpr std::size_t kLengthBytes = 8;

struct DTypeRow {
  const char* name;
  std::size_t bytes;
  std::optional<DType> dtype;
};
// Dtypes without one of ours have a size, so that a file may hold them where nobody asks for them.
const DTypeRow kDTypes[] = {
    {"F64", 8, DType::float64},   {"F32", 4, DType::float32},   {"F16", 2, DType::float16},
    {"BF16", 2, DType::bfloat16}, {"I64", 8, DType::int64},     {"I32", 4, DType::int32},
    {"U8", 1, DType::uint8},      {"BOOL", 1, DType::boolean},  {"I16", 2, std::nullopt},
    {"I8", 1, std::nullopt},      {"U16", 2, std::nullopt},     {"U32", 4, std::nullopt},
    {"U64", 8, std::nullopt},     {"F8_E4M3", 1, std::nullopt}, {"F8_E5M2", 1, std::nullopt},
    {"F8_E8M0", 1, std::nullopt},
};

const DTypeRow* find_dtype(const std::string& name) {
  for (const auto& row : kDTypes)
    if (name == row.name) return &row;
  return nullptr;
}

const char* safetensors_name(DType dtype) {
  for (const auto& row : kDTypes)
    if (row.dtype == dtype) return row.name;
  return "";
}

// A non-negative integer that fits, or nothing.
std::optional<std::uint64_t> natural(const json& value) {
  if (value.is_number_unsigned()) return value.get<std::uint64_t>();
  return std::nullopt;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0)
    throw InputError(path + ": cannot be read: " + std::strerror(errno));
  if (!S_ISREG(info.st_mode)) throw InputError(path + ": is not a file");
  mapped_bytes_ = static_cast<std::size_t>(info.st_size);
  if (mapped_bytes_ < kLengthBytes + 2)
    throw InputError(path + ": damaged or not a safetensors file (too short)");
  void* mapped = ::mmap(nullptr, mapped_bytes_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (mapped == MAP_FAILED) throw InputError(path + ": cannot be read: " + std::strerror(errno));
  mapped_ = static_cast<const std::byte*>(mapped);
  try {
    std::uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, mapped_, kLengthBytes);
    if (header_bytes > kHeaderBytes || header_bytes > mapped_bytes_ - kLengthBytes)
      throw InputError(path + ": damaged or not a safetensors file (header of " +
                       std::to_string(header_bytes) + " bytes in a file of " + std::to_string(mapped_bytes_) +
                       ")");
    data_ = mapped_ + kLengthBytes + header_bytes;
    parse_header(header_bytes);
    check_coverage(mapped_bytes_ - kLengthBytes - header_bytes);
  } catch (...) {
    ::munmap(mapped, mapped_bytes_);
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() {
  ::munmap(const_cast<std::byte*>(mapped_), mapped_bytes_);
}

void SafetensorsFile::parse_header(std::uint64_t header_bytes) {
  const char* text = reinterpret_cast<const char*>(mapped_) + kLengthBytes;
  // nlohmann keeps the last of two equal keys; a name that stands twice is damage.
  std::set<std::string> names;
  std::string twice;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::key && depth == 1 && !names.insert(value.get<std::string>()).second)
      twice = value.get<std::string>();
    return depth <= 4;
  };
  const json header = json::parse(text, text + header_bytes, watch, false);
  if (!header.is_object()) throw InputError(path_ + ": damaged (its header is not a JSON object)");
  if (!twice.empty()) throw InputError(path_, twice.substr(0, 200), "stands twice in the header");
  for (const auto& item : header.items()) {
    const std::string& name = item.key();
    const json& value = item.value();
    if (name == "__metadata__") continue;
    const auto damaged = [&](const std::string& what) { throw InputError(path_, name.substr(0, 200), what); };
    if (!valid_path(name)) damaged("is no possible name of a tensor");
    if (!value.is_object() || !value.contains("dtype") || !value["dtype"].is_string() ||
        !value.contains("shape") || !value["shape"].is_array() || !value.contains("data_offsets") ||
        !value["data_offsets"].is_array() || value["data_offsets"].size() != 2)
      damaged("has no dtype, shape and data_offsets");
    Entry entry;
    entry.dtype = value["dtype"].get<std::string>();
    const DTypeRow* dtype = find_dtype(entry.dtype);
    if (!dtype) damaged("has the unknown dtype '" + entry.dtype.substr(0, 20) + "'");
    if (value["shape"].size() > Limits::kRank) damaged("has more than 8 dimensions");
    // No product can pass the file's size, except beside a dimension of 0.
    std::uint64_t bytes = dtype->bytes;
    for (const auto& dimension : value["shape"]) {
      const auto n = natural(dimension);
      if (!n || *n > static_cast<std::uint64_t>(Limits::kDimension)) damaged("has an impossible shape");
      entry.shape.push_back(static_cast<std::int64_t>(*n));
    }
    const bool empty = std::count(entry.shape.begin(), entry.shape.end(), 0) > 0;
    for (const auto n : entry.shape) {
      if (empty) break;
      if (bytes > mapped_bytes_ / static_cast<std::uint64_t>(n)) damaged("is larger than its file");
      bytes *= static_cast<std::uint64_t>(n);
    }
    if (empty) bytes = 0;
    const auto begin = natural(value["data_offsets"][0]), end = natural(value["data_offsets"][1]);
    if (!begin || !end || *begin > *end || *end - *begin != bytes)
      damaged("its data_offsets do not span " + std::to_string(bytes) +
              " bytes, which its dtype and shape need");
    entry.begin = *begin;
    entry.end = *end;
    entries_.emplace(name, std::move(entry));
  }
}

void SafetensorsFile::check_coverage(std::uint64_t data_bytes) const {
  std::vector<std::pair<std::uint64_t, std::string>> order;
  for (const auto& [name, entry] : entries_) order.emplace_back(entry.begin, name);
  // Empty tensors share their start with the next one: put them first.
  std::sort(order.begin(), order.end(), [&](const auto& a, const auto& b) {
    return std::pair(a.first, entries_.at(a.second).end) < std::pair(b.first, entries_.at(b.second).end);
  });
  std::uint64_t next = 0;
  for (const auto& [begin, name] : order) {
    if (begin != next) throw InputError(path_, name, "its data overlaps another tensor's or leaves a gap");
    next = entries_.at(name).end;
  }
  if (next != data_bytes)
    throw InputError(path_ + ": damaged (its tensors need " + std::to_string(next) + " bytes, it holds " +
                     std::to_string(data_bytes) + ")");
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

TensorView SafetensorsFile::view(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) throw InputError(path_, name, "is missing");
  const Entry& entry = found->second;
  const auto dtype = find_dtype(entry.dtype)->dtype;
  if (!dtype)
    throw InputError(path_, name,
                     "has dtype " + entry.dtype + ", which is not supported (F64, F32, F16, BF16, ...)");
  return {*dtype, entry.shape, data_ + entry.begin};
}

std::uint64_t SafetensorsFile::offset_in_file(const std::string& name) const {
  return static_cast<std::uint64_t>(view(name).data - mapped_);
}

HostTensor SafetensorsFile::tensor(const std::string& name) const {
  return HostTensor::copy_of(view(name));
}

void SafetensorsFile::forget() const {
  ::madvise(const_cast<std::byte*>(mapped_), mapped_bytes_, MADV_DONTNEED);
}

void write_safetensors(const std::string& path, const std::vector<TensorPieces>& tensors) {
  nlohmann::ordered_json header = {
      {"__metadata__", {{"format", "pt"}}}};  // what Hugging Face's loader asks for
  std::uint64_t offset = 0;
  for (const auto& tensor : tensors) {
    const std::uint64_t bytes =
        static_cast<std::uint64_t>(shape_numel(tensor.shape)) * dtype_size(tensor.dtype);
    header[tensor.name] = {{"dtype", safetensors_name(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data aligned to 8 bytes, as the format asks
  const std::uint64_t header_bytes = text.size();
  AtomicFile file(path);
  file.write(&header_bytes, sizeof header_bytes);
  file.write(text.data(), text.size());
  for (const auto& tensor : tensors) {
    for (const auto& [data, bytes] : tensor.pieces) file.write(data, bytes);
    if (tensor.source) tensor.source->forget();
  }
  file.commit();
}

void write_safetensors(const std::string& path, const std::map<std::string, HostTensor>& tensors) {
  std::vector<TensorPieces> pieces;
  for (const auto& [name, tensor] : tensors)
    pieces.push_back(
        {name, tensor.dtype, tensor.shape, {{tensor.bytes.data(), tensor.bytes.size()}}, nullptr});
  write_safetensors(path, pieces);
}

}  // namespace meshparity::golden

// The safetensors format: strict reading (memory-mapped, every offset checked) and writing.
// Layout: header length u64, JSON header {"name": {"dtype", "shape", "data_offsets": [begin, end]}}, data
// without gaps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "harness/types/tensor.h"

namespace meshparity::golden {

// One file, mapped for as long as the object lives.
class SafetensorsFile {
 public:
  // Throws InputError naming the file, and the tensor where one is at fault, unless the header is
  // well-formed, names are unique, every size is dtype times shape and the tensors fill the data exactly.
  explicit SafetensorsFile(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  std::vector<std::string> names() const;
  bool has(const std::string& name) const { return entries_.count(name) > 0; }
  // A view into the mapping; its data need not be aligned for its dtype. Throws InputError for a name that is
  // not there and for a dtype that no model here uses (F8_E4M3 and other quantised ones).
  TensorView view(const std::string& name) const;
  // Where its data begins in the file, in bytes.
  std::uint64_t offset_in_file(const std::string& name) const;
  // The same as an owning, aligned tensor.
  HostTensor tensor(const std::string& name) const;
  // Gives back the memory of what was read so far; views stay valid and are read again where they are used.
  void forget() const;

 private:
  struct Entry {
    std::string dtype;
    Shape shape;
    std::uint64_t begin = 0, end = 0;
  };
  void parse_header(std::uint64_t header_bytes);
  void check_coverage(std::uint64_t data_bytes) const;

  std::string path_;
  const std::byte* mapped_ = nullptr;
  std::size_t mapped_bytes_ = 0;
  const std::byte* data_ = nullptr;
  std::map<std::string, Entry> entries_;
};

// A tensor to write whose bytes lie elsewhere, piece after piece.
struct TensorPieces {
  std::string name;
  DType dtype = DType::float64;
  Shape shape;
  std::vector<std::pair<const std::byte*, std::size_t>> pieces;
  const SafetensorsFile* source = nullptr;  // forgotten once written, where the pieces lie in a file
};

// Writes whole or not at all, tensors in their order, without a copy of any. Throws InputError "PATH: cannot
// be written".
void write_safetensors(const std::string& path, const std::vector<TensorPieces>& tensors);
// The same of tensors in memory, in the order of names.
void write_safetensors(const std::string& path, const std::map<std::string, HostTensor>& tensors);

}  // namespace meshparity::golden

// The part of the zip format that torch.save and numpy.savez write: stored entries (read in place, also
// beyond 4 GiB) and deflated ones (read into memory, bounded).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "golden/dumps/value.h"

namespace meshparity::dumps {

class ZipFile {
 public:
  // Throws InputError naming the file unless its directory is whole and every entry lies inside the file,
  // alone.
  explicit ZipFile(BytesRef bytes);
  std::vector<std::string> names() const;
  bool has(const std::string& name) const { return entries_.count(name) > 0; }
  // Where an entry's content lies: in the file itself where it is stored, else in memory. Throws InputError
  // where it is encrypted, compressed by another method, or deflates to more than all entries together may (1
  // GiB).
  struct Content {
    BytesRef bytes;
    std::uint64_t offset = 0, size = 0;
  };
  Content content(const std::string& name) const;

 private:
  struct Entry {
    std::uint16_t method = 0, flags = 0;
    std::uint32_t crc = 0;
    std::uint64_t header = 0, packed = 0, size = 0;
  };
  void read_directory(std::uint64_t at, std::uint64_t bytes, std::uint64_t count);
  [[noreturn]] void damaged(const std::string& what) const;

  BytesRef bytes_;
  std::map<std::string, Entry> entries_;
  mutable std::uint64_t inflated_ = 0;
};

}  // namespace meshparity::dumps

// What bounds a file of any origin, so that neither a damaged nor a malicious one can exhaust the machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace meshparity::golden {

struct Limits {
  static constexpr std::size_t kNameBytes = 1024;
  static constexpr std::size_t kTextBytes = std::size_t{16} << 20;
  static constexpr std::size_t kRank = 8;
  static constexpr std::size_t kObjects = 200'000;
  static constexpr std::int64_t kDimension = std::int64_t{1} << 40;
  // 16 = more than deflate gains on float data, so that compressed dumps pass while a tiny file cannot claim
  // terabytes.
  static std::uint64_t content_bytes(std::uint64_t file_bytes) {
    return (std::uint64_t{256} << 20) + 16 * file_bytes;
  }
};

// Components of letters, digits and printable signs without a space (hashes are taken over lines "<path>
// <sha256>"), none of them empty, "." or "..", no slash at either end.
bool valid_path(const std::string& path);

}  // namespace meshparity::golden

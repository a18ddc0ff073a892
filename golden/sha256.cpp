#include "golden/sha256.h"

#include <openssl/sha.h>

#include "golden/store.h"

namespace meshparity::golden {

std::string sha256_hex(const void* data, std::size_t bytes) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(static_cast<const unsigned char*>(data), bytes, digest);
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const unsigned char b : digest) {
    hex += kDigits[b >> 4];
    hex += kDigits[b & 15];
  }
  return hex;
}

std::string hash_of_hashes(const std::map<std::string, std::string>& hashes) {
  std::string lines;
  for (const auto& [path, hash] : hashes) lines += path + " " + hash + "\n";
  return sha256_hex(lines.data(), lines.size());
}

std::string content_hash(const Store& store) {
  std::map<std::string, std::string> hashes;
  for (const auto& [path, text] : store.strings) hashes[path] = sha256_hex(text.data(), text.size());
  for (const auto& [path, tensor] : store.tensors)
    hashes[path] = sha256_hex(tensor.bytes.data(), tensor.bytes.size());
  return hash_of_hashes(hashes);
}

}  // namespace meshparity::golden

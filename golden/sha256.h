// The hash of all datasets from the hashes of each. (sha256_hex and content_hash stand in store.h.)
#pragma once

#include <map>
#include <string>

namespace meshparity::golden {

// SHA-256 of the lines "<path> <sha256>\n", sorted by path: content_sha256 of the schema.
std::string hash_of_hashes(const std::map<std::string, std::string>& hashes);

}  // namespace meshparity::golden

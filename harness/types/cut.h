// The one rule by which anything that need not divide evenly is cut: part i of w of n starts at floor(i*n/w).
// Parts may be empty; no element is lost for any n and w. Source: design, "Mesh".
#pragma once

#include <cstdint>
#include <vector>

namespace meshparity {

struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// Part `index` of `parts` of `total` elements.
inline Range cut(std::int64_t total, std::int64_t parts, std::int64_t index) {
  return {index * total / parts, (index + 1) * total / parts};
}

// Sizes of all parts.
inline std::vector<std::int64_t> cut_sizes(std::int64_t total, std::int64_t parts) {
  std::vector<std::int64_t> sizes;
  for (std::int64_t i = 0; i < parts; ++i) sizes.push_back(cut(total, parts, i).size());
  return sizes;
}

}  // namespace meshparity

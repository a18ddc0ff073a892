// In which order the rows (or columns) of one matrix stand in another, in blocks and in words.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace meshparity::weights {

// order[i] = where element i of `got` stands in `want`; nothing unless both hold the same ones, each as
// often.
std::optional<std::vector<std::int64_t>> order_of(const std::vector<std::uint64_t>& got,
                                                  const std::vector<std::uint64_t>& want);

// "4 blocks of 24 rows in the order 0 2 1 3"; what kind of order it is where it is one: rotated, reversed,
// two blocks swapped, a grid of blocks read the other way round. `what`: "rows" or "columns".
std::string order_text(const std::vector<std::int64_t>& order, const std::string& what);

}  // namespace meshparity::weights

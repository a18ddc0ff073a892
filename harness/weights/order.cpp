#include "harness/weights/order.h"

#include <algorithm>
#include <deque>
#include <map>
#include <numeric>

namespace meshparity::weights {
namespace {

constexpr std::size_t kMostListed = 16;

// The largest size of blocks that keep their inside: it divides the length and every place where one run of
// consecutive elements ends and another begins, in both orders.
std::int64_t block_size(const std::vector<std::int64_t>& order) {
  const auto n = static_cast<std::int64_t>(order.size());
  std::int64_t size = n;
  for (std::int64_t i = 0; i < n; ++i)
    if (i == 0 || order[i] != order[i - 1] + 1) size = std::gcd(size, std::gcd(i, order[i]));
  return size;
}

std::string kind_of(const std::vector<std::int64_t>& blocks) {
  const auto n = static_cast<std::int64_t>(blocks.size());
  if (n == 2) return "the two halves swapped";
  bool rotated = true, reversed = true;
  std::vector<std::int64_t> moved;
  for (std::int64_t i = 0; i < n; ++i) {
    rotated = rotated && blocks[i] == (blocks[0] + i) % n;
    reversed = reversed && blocks[i] == n - 1 - i;
    if (blocks[i] != i) moved.push_back(i);
  }
  if (rotated) return "rotated by " + std::to_string(blocks[0]);
  if (reversed) return "reversed";
  if (moved.size() == 2)
    return "block " + std::to_string(moved[0]) + " and block " + std::to_string(moved[1]) + " swapped";
  for (std::int64_t rows = 2; rows < n; ++rows) {
    if (n % rows) continue;
    const std::int64_t columns = n / rows;
    bool grid = true;
    for (std::int64_t i = 0; i < n && grid; ++i) grid = blocks[i] == (i % rows) * columns + i / rows;
    if (grid)
      return std::to_string(rows) + " groups of " + std::to_string(columns) +
             " taken apart: all firsts, then all seconds" + (columns > 2 ? "..." : "");
  }
  return "";
}

}  // namespace

std::optional<std::vector<std::int64_t>> order_of(const std::vector<std::uint64_t>& got,
                                                  const std::vector<std::uint64_t>& want) {
  if (got.size() != want.size()) return std::nullopt;
  std::map<std::uint64_t, std::deque<std::int64_t>> places;
  for (std::size_t i = 0; i < want.size(); ++i) places[want[i]].push_back(static_cast<std::int64_t>(i));
  std::vector<std::int64_t> order;
  for (const std::uint64_t hash : got) {
    auto& left = places[hash];
    if (left.empty()) return std::nullopt;
    // Of equal ones the next in line, where it is there.
    auto next = order.empty() ? left.begin() : std::find(left.begin(), left.end(), order.back() + 1);
    if (next == left.end()) next = left.begin();
    order.push_back(*next);
    left.erase(next);
  }
  return order;
}

std::string order_text(const std::vector<std::int64_t>& order, const std::string& what) {
  const std::int64_t size = block_size(order);
  std::vector<std::int64_t> blocks;
  for (std::size_t i = 0; i < order.size(); i += static_cast<std::size_t>(size))
    blocks.push_back(order[i] / size);
  std::string text =
      std::to_string(blocks.size()) + " blocks of " + std::to_string(size) + " " + what + " in the order";
  for (std::size_t i = 0; i < std::min(blocks.size(), kMostListed); ++i)
    text += " " + std::to_string(blocks[i]);
  if (blocks.size() > kMostListed) text += " ...";
  const std::string kind = kind_of(blocks);
  return kind.empty() ? text : text + " (" + kind + ")";
}

}  // namespace meshparity::weights

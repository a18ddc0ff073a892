// What every engine checks when it makes a group.
#pragma once

#include <string>
#include <vector>

namespace meshparity::impl {

// Ranks of one process: a group's arrivals are counted in eight bits.
constexpr int kLargestWorld = 255;

// The place of `rank` in `members`. Throws RunError unless members are different ranks of the world and
// contain `rank`.
int member_index(const std::string& axis, const std::vector<int>& members, int rank, int world);

}  // namespace meshparity::impl

// Groups: one mesh axis seen from one rank.
#include "impl/comm/group.h"

#include <set>
#include <utility>

#include "harness/types/error.h"
#include "impl/comm/comm.h"
#include "impl/comm/world.h"

namespace meshparity::impl {

Group::Group(std::string axis, int rank, int size, c10::intrusive_ptr<c10d::Backend> backend)
    : axis_(std::move(axis)), rank_(rank), size_(size), backend_(std::move(backend)) {}

int member_index(const std::string& axis, const std::vector<int>& members, int rank, int world) {
  const std::string who = "rank " + std::to_string(rank) + ": group " + group_text(axis, members);
  int index = -1;
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (members[i] < 0 || members[i] >= world) throw RunError(who + " names a rank outside the world");
    if (members[i] == rank) index = static_cast<int>(i);
  }
  if (std::set<int>(members.begin(), members.end()).size() != members.size()) {
    throw RunError(who + " names a rank twice");
  }
  if (index < 0) throw RunError(who + " does not contain this rank");
  return index;
}

}  // namespace meshparity::impl

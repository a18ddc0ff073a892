// Resharding: parameters go from the ranks of one mesh, sharded by its plan, to the ranks of another, sharded
// by that one's. What travels are the intersections of what a rank holds with what another needs, as index
// ranges of the full tensor; each needed element comes from one rank. Parameter after parameter, so that
// nobody ever holds more than its own shards and the parts of one parameter on their way.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "impl/comm/comm.h"
#include "impl/parallel/plan.h"

namespace meshparity::impl {

// The elements of a full tensor that a shard holds: the product of its dimensions' ranges, in the shard's own
// order.
struct ShardRanges {
  std::vector<std::vector<Range>> dims;  // no range is empty
  Shape shape() const;
  std::int64_t numel() const { return shape_numel(shape()); }
  bool operator==(const ShardRanges&) const = default;
};
ShardRanges shard_ranges(const Plan& plan, const PlanRow& row);

// A box that lies in two shards: where it begins in each, and its sizes.
struct SharedBox {
  Shape begin_a, begin_b, sizes;
};
// All of them, in the order of `a`. Their elements are those that both shards hold.
std::vector<SharedBox> shared_boxes(const ShardRanges& a, const ShardRanges& b);

// The plans of both meshes' ranks, world rank after world rank. Meshes may have different numbers of ranks.
class Resharding {
 public:
  // `shard_of(name, rank)`: whose shard `rank` of the second mesh is to get; itself, unless a fault says
  // otherwise.
  Resharding(const std::vector<Plan>& from, const std::vector<Plan>& to,
             std::function<int(const std::string&, int)> shard_of);

  // Moves parameter `name`, of which this rank holds the shard `own` (undefined: none), to where the second
  // mesh needs it, as `options` (dtype, device): all ranks of `everyone`, which are the engine's in order,
  // call it for the same parameters in the same order. `into`, contiguous: this rank's shard afterwards
  // (undefined where it needs none). `ordinal`: number of the parameter, by which the work is spread over
  // replicas. One all-to-all at "reshard.NAME". Throws RunError where a needed element is held by nobody or
  // by ranks whose shards overlap without being the same.
  void move(Collectives& collectives, const Group& everyone, const std::string& name, std::int64_t ordinal,
            const at::Tensor& own, at::Tensor into, const at::TensorOptions& options) const;

 private:
  // Ranks that hold the same elements of a parameter.
  struct Replicas {
    ShardRanges ranges;
    std::vector<int> ranks;
    // Who of them sends to `rank`: itself if it is one, else one after the other.
    int sender(int rank, std::int64_t ordinal) const;
  };
  std::vector<Replicas> holders(const std::string& name) const;
  std::optional<ShardRanges> needed(const std::string& name, int rank) const;

  const std::vector<Plan>&from_, &to_;
  std::function<int(const std::string&, int)> shard_of_;
};

}  // namespace meshparity::impl

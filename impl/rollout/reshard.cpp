#include "impl/rollout/reshard.h"

#include <algorithm>
#include <array>

#include "harness/types/error.h"

namespace meshparity::impl {
namespace {

const PlanRow* find_row(const Plan& plan, const std::string& name) {
  for (const PlanRow& row : plan.rows)
    if (row.name == name) return &row;
  return nullptr;
}

// Elements [kept.begin, kept.end) of the list of ranges, counted through it.
std::vector<Range> cut_list(const std::vector<Range>& list, Range kept) {
  std::vector<Range> out;
  std::int64_t before = 0;
  for (const Range& r : list) {
    const std::int64_t begin = std::max(kept.begin - before, std::int64_t{0});
    const std::int64_t end = std::min(kept.end - before, r.size());
    if (begin < end) out.push_back({r.begin + begin, r.begin + end});
    before += r.size();
  }
  return out;
}

// What two lists of ranges share, as (begin in a, begin in b, size).
std::vector<std::array<std::int64_t, 3>> shared_stretches(const std::vector<Range>& a,
                                                          const std::vector<Range>& b) {
  std::vector<std::array<std::int64_t, 3>> out;
  std::int64_t in_a = 0;
  for (const Range& x : a) {
    std::int64_t in_b = 0;
    for (const Range& y : b) {
      const std::int64_t begin = std::max(x.begin, y.begin), end = std::min(x.end, y.end);
      if (begin < end) out.push_back({in_a + begin - x.begin, in_b + begin - y.begin, end - begin});
      in_b += y.size();
    }
    in_a += x.size();
  }
  return out;
}

at::Tensor box_of(at::Tensor shard, const Shape& begin, const Shape& sizes) {
  for (std::size_t d = 0; d < sizes.size(); ++d)
    shard = shard.narrow(static_cast<std::int64_t>(d), begin[d], sizes[d]);
  return shard;
}

std::int64_t elements(const std::vector<SharedBox>& boxes) {
  std::int64_t n = 0;
  for (const SharedBox& box : boxes) n += shape_numel(box.sizes);
  return n;
}

}  // namespace

Shape ShardRanges::shape() const {
  Shape shape;
  for (const auto& ranges : dims) {
    shape.push_back(0);
    for (const Range& r : ranges) shape.back() += r.size();
  }
  return shape;
}

ShardRanges shard_ranges(const Plan& plan, const PlanRow& row) {
  ShardRanges held;
  for (const std::int64_t size : row.shape) held.dims.push_back({{0, size}});
  if (row.expert) held.dims[0] = {plan.experts(row)};
  if (row.tp_dim >= 0)
    held.dims[row.tp_dim] = plan.tp_ranges(row, row.expert ? plan.expert_at.etp : plan.at.tp);
  auto& sharded = held.dims[row.fsdp_dim];
  sharded = cut_list(sharded, plan.shard_range(row, plan.shard_index(row)));
  for (auto& ranges : held.dims) std::erase_if(ranges, [](const Range& r) { return r.size() == 0; });
  return held;
}

std::vector<SharedBox> shared_boxes(const ShardRanges& a, const ShardRanges& b) {
  std::vector<SharedBox> boxes{{}};
  for (std::size_t d = 0; d < a.dims.size(); ++d) {
    std::vector<SharedBox> longer;
    for (const SharedBox& box : boxes)
      for (const auto& [in_a, in_b, size] : shared_stretches(a.dims[d], b.dims[d])) {
        SharedBox next = box;
        next.begin_a.push_back(in_a), next.begin_b.push_back(in_b), next.sizes.push_back(size);
        longer.push_back(std::move(next));
      }
    boxes = std::move(longer);
  }
  return boxes;
}

Resharding::Resharding(const std::vector<Plan>& from, const std::vector<Plan>& to,
                       std::function<int(const std::string&, int)> shard_of)
    : from_(from), to_(to), shard_of_(std::move(shard_of)) {}

int Resharding::Replicas::sender(int rank, std::int64_t ordinal) const {
  if (std::find(ranks.begin(), ranks.end(), rank) != ranks.end()) return rank;
  return ranks[static_cast<std::size_t>(rank + ordinal) % ranks.size()];
}

std::vector<Resharding::Replicas> Resharding::holders(const std::string& name) const {
  std::vector<Replicas> list;
  for (std::size_t rank = 0; rank < from_.size(); ++rank) {
    const PlanRow* row = find_row(from_[rank], name);
    if (!row) continue;
    const ShardRanges ranges = shard_ranges(from_[rank], *row);
    auto same = std::find_if(list.begin(), list.end(), [&](const auto& r) { return r.ranges == ranges; });
    if (same == list.end()) same = list.insert(list.end(), {ranges, {}});
    same->ranks.push_back(static_cast<int>(rank));
  }
  return list;
}

std::optional<ShardRanges> Resharding::needed(const std::string& name, int rank) const {
  if (rank >= static_cast<int>(to_.size())) return std::nullopt;
  const Plan& plan = to_[shard_of_(name, rank)];
  const PlanRow* row = find_row(plan, name);
  return row ? std::optional(shard_ranges(plan, *row)) : std::nullopt;
}

void Resharding::move(Collectives& collectives, const Group& everyone, const std::string& name,
                      std::int64_t ordinal, const at::Tensor& own, at::Tensor into,
                      const at::TensorOptions& options) const {
  const int rank = everyone.rank(), ranks = everyone.size();
  const std::vector<Replicas> all = holders(name);
  std::vector<std::int64_t> send(ranks, 0), receive(ranks, 0);
  std::vector<at::Tensor> leaving;
  for (const Replicas& mine : all) {
    if (std::find(mine.ranks.begin(), mine.ranks.end(), rank) == mine.ranks.end()) continue;
    for (int to = 0; to < ranks; ++to) {
      const auto wanted = needed(name, to);
      if (!wanted || to == rank || mine.sender(to, ordinal) != rank) continue;
      for (const SharedBox& box : shared_boxes(mine.ranges, *wanted)) {
        leaving.push_back(box_of(own, box.begin_a, box.sizes).reshape({-1}));
        send[to] += leaving.back().numel();
      }
    }
  }
  // What arrives, by sender.
  std::vector<std::vector<SharedBox>> arriving(ranks);
  if (const auto wanted = needed(name, rank)) {
    std::int64_t covered = 0;
    for (const Replicas& held : all) {
      const int from = held.sender(rank, ordinal);
      const std::vector<SharedBox> boxes = shared_boxes(held.ranges, *wanted);
      covered += elements(boxes);
      if (from == rank) {
        for (const SharedBox& box : boxes)
          box_of(into, box.begin_b, box.sizes).copy_(box_of(own, box.begin_a, box.sizes));
      } else {
        arriving[from].insert(arriving[from].end(), boxes.begin(), boxes.end());
        receive[from] += elements(boxes);
      }
    }
    if (covered != wanted->numel())
      throw RunError("reshard: of " + name + " rank " + std::to_string(rank) + " needs " +
                     std::to_string(wanted->numel()) + " elements, the ranks of the other mesh hold " +
                     std::to_string(covered) + " of them");
  }
  const at::Tensor out = leaving.empty() ? at::empty({0}, options) : at::cat(leaving);
  const at::Tensor in = collectives.all_to_all(everyone, out, send, receive, "reshard." + name);
  std::int64_t next = 0;
  for (const auto& boxes : arriving)
    for (const SharedBox& box : boxes) {
      const std::int64_t n = shape_numel(box.sizes);
      box_of(into, box.begin_b, box.sizes).copy_(in.narrow(0, next, n).view(box.sizes));
      next += n;
    }
}

}  // namespace meshparity::impl

#include "impl/parallel/data.h"

namespace meshparity::impl {
namespace {

// Sums the gradients of the chosen parameters over a group: packed, reduced once, written back.
template <class Chosen>
void reduce_chosen(const ShardedParameters& parameters, Collectives& collectives, const Group& group,
                   const Site& site, Chosen&& chosen) {
  if (group.size() == 1) return;
  std::vector<const ShardedParameters::Entry*> entries;
  for (const auto& e : parameters.entries())
    if (chosen(*e.row)) entries.push_back(&e);
  if (entries.empty()) return;
  const at::Tensor& all = parameters.gradients();
  if (entries.size() == parameters.entries().size()) {
    all.copy_(collectives.all_reduce(group, all, site));
    return;
  }
  Tensors parts;
  for (const auto* e : entries) parts.push_back(all.slice(0, e->offset, e->offset + e->numel));
  const at::Tensor sum = collectives.all_reduce(group, at::cat(parts), site);
  std::int64_t offset = 0;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    parts[i].copy_(sum.slice(0, offset, offset + entries[i]->numel));
    offset += entries[i]->numel;
  }
}

}  // namespace

void reduce_gradients(const ShardedParameters& parameters, Collectives& collectives,
                      const GradientGroups& groups) {
  const at::NoGradGuard guard;
  reduce_chosen(parameters, collectives, *groups.tp, "gradients.tp",
                [](const PlanRow& row) { return row.tp_sum == TpSum::all; });
  reduce_chosen(parameters, collectives, *groups.kv_replicas, "gradients.kv_replicas",
                [](const PlanRow& row) { return row.tp_sum == TpSum::replicas; });
  const bool apart = groups.expert_replicas != groups.replicas;
  reduce_chosen(parameters, collectives, *groups.replicas, "gradients.dp",
                [&](const PlanRow& row) { return row.sum_over_dp && !(apart && row.expert); });
  if (apart)
    reduce_chosen(parameters, collectives, *groups.expert_replicas, "gradients.experts.dp",
                  [](const PlanRow& row) { return row.sum_over_dp && row.expert; });
  // Both ends of the pipeline hold a tied embedding, each with the gradient of its own use.
  if (groups.tied)
    reduce_chosen(parameters, collectives, *groups.tied, "gradients.embedding",
                  [](const PlanRow& row) { return row.tied_over_pp; });
}

}  // namespace meshparity::impl

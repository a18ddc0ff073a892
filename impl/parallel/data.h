// What remains to be summed once all micro-batches have run backward: replicas over tp that saw different
// tokens, heads or partial sums; replicated key-value heads; and the dp replicas. fsdp was summed by each
// unit's reduce-scatter.
#pragma once

#include <memory>

#include "impl/parallel/fully_sharded.h"

namespace meshparity::impl {

struct GradientGroups {
  std::shared_ptr<Group> tp, kv_replicas;
  std::shared_ptr<Group> replicas;         // dp and cp: same parameters, other tokens
  std::shared_ptr<Group> expert_replicas;  // of experts: dp alone where they are sharded over cp as well
  std::shared_ptr<Group> tied;             // first and last stage; null on the others and without pp
};

// Sums, in place, what the plan's rows say. One collective per group, whatever the number of parameters.
void reduce_gradients(const ShardedParameters& parameters, Collectives& collectives,
                      const GradientGroups& groups);

}  // namespace meshparity::impl

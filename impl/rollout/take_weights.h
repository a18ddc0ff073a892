// How a rank of rollout comes by its parameters: every rank of the training mesh cuts its training shards,
// and they are resharded.
#pragma once

#include <memory>

#include "impl/parallel/fully_sharded.h"
#include "impl/rollout/edit.h"
#include "impl/rollout/program.h"

namespace meshparity::impl {

// The plans of all ranks of a mesh, each offered to the seam.
std::vector<Plan> plans_of(const ModelConfig& config, const Mesh& mesh, const Flags& flags,
                           const Seams& seams);

// Called by every rank of the engine. Gives the ranks of the rollout mesh their shards as `plans` (that
// mesh's, which must outlive them) say, the others null, and records "rollout/weights/<name>". A rank holds
// its training shards until all are moved. Throws RunError naming a parameter that is missing or does not
// reach everybody.
std::unique_ptr<ShardedParameters> take_weights(const RolloutInputs& inputs, Engine& engine,
                                                const Seams& seams, const std::vector<Plan>& plans,
                                                const RolloutEdit& edit,
                                                const std::shared_ptr<Collectives>& collectives,
                                                RankOutput& out);

}  // namespace meshparity::impl

// The experts that every token chooses, as the reference routes: what the communication plan needs with ep
// > 1.
#pragma once

#include <string>

#include "harness/layout/communication_plan.h"
#include "reference/reference.h"

namespace meshparity::cli {

// Of every pass that a run of `steps` optimizer steps makes, for all tokens of the batch as mesh and flags
// pad it. Runs the reference once, in the dtype of the weights.
layout::ExpertRoutes reference_routes(const ModelConfig& config, const reference::TensorMap& weights,
                                      const Batch& batch, const TrainSpec& train, const Mesh& mesh,
                                      const Flags& flags, const std::string& loss, int steps);

// Of one forward over the tokens as they are: "layers.<i>" [N, k] int64; empty of a dense model. What a
// rollout replays.
reference::TensorMap chosen_experts(const ModelConfig& config, const reference::TensorMap& weights,
                                    const Batch& batch, const TrainSpec& train);

}  // namespace meshparity::cli

// Tokens drawn by the reference's rollout: what a train/rollout comparison is about.
#pragma once

#include <cstdint>

#include "harness/types/rollout.h"
#include "reference/reference.h"

namespace meshparity::reference {

// The batch with the tokens behind every document's prompt drawn from the model at spec's temperature, within
// its top-p set; labels that there were follow. A function of the seed and the document's number. Throws
// InputError for a batch with images.
Batch generate(const ModelConfig& config, const TensorMap& weights, const Batch& batch,
               const RolloutSpec& spec, std::uint64_t seed);

}  // namespace meshparity::reference

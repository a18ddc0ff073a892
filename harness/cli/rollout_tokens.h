// Names the tokens of a rollout by the pass that computed them: prefilled, in which chunk, or decoded, at
// which step.
#pragma once

#include <string>

#include "harness/types/batch.h"
#include "harness/types/rollout.h"
#include "harness/types/tensor.h"
#include "harness/types/verdict.h"

namespace meshparity::cli {

// How the engine came to a token: "document 3 position 5, the first decoded token (prompt of 5)", "document 0
// position 2, prefilled in chunk 2 of 3, its first token".
std::string rollout_token_text(const Batch& batch, const RolloutSpec& spec, std::int64_t token);

// Adds to the verdict on a failing tensor of tokens [N, ...] where its worst token stands, and in front of
// its detail how many prefilled and decoded ones are off and which is the earliest.
void describe_rollout_tokens(const Batch& batch, const RolloutSpec& spec, const TensorView& got,
                             const TensorView& want, CheckResult& result);

}  // namespace meshparity::cli

// One sequence on its way through the model, some tokens at a time.
// Legend: T tokens of the sequence, n of them at once, D hidden, k experts per token.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <vector>

#include "harness/types/cut.h"
#include "reference/blocks/rope.h"
#include "reference/reference.h"
#include "reference/rollout/cache.h"

namespace meshparity::reference {

// What the model is given of a whole sequence.
struct SequenceInputs {
  at::Tensor token_ids;   // [T] int64
  at::Tensor embeddings;  // [T, D] with images in the places of their placeholders
  at::Tensor positions;   // [3, T] int64
  TensorMap replayed;     // "layers.<i>" [T, k] int64: the experts to use; empty: the router chooses
};

// What it makes of some tokens.
struct Decoded {
  at::Tensor logits;  // [n, vocab]
  TensorMap routes;   // "layers.<i>" [n, k] int64 of a mixture of experts
};

// Nothing before the first token.
Cache empty_cache(const ModelConfig& config, const TensorMap& weights);

// The model on `tokens`, which follow those that `cache` holds; adds them to it. A single one is a decode
// step, several are a chunk of a prefill.
Decoded advance(const ModelConfig& config, const TensorMap& weights, const SequenceInputs& inputs,
                Range tokens, Cache& cache);

// S after and o [n, H, V] of the gated delta rule (reference/blocks/delta_rule.h) from the state [H, K, V].
struct DeltaSteps {
  at::Tensor o, state;
};
DeltaSteps delta_steps(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& g,
                       const at::Tensor& beta, at::Tensor state);

}  // namespace meshparity::reference

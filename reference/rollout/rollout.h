// The single-device truth of rollout: one sequence at a time, token by token behind the prompt, from caches.
#pragma once

#include "harness/types/rollout.h"
#include "reference/reference.h"

namespace meshparity::reference {

// Rolls every document of the batch out in the dtype of the weights. `routes`: with spec.replay the experts
// of every token, "layers.<i>" [N, k] int64 in slot order. Returns, in the batch's token order:
// rollout/logits [N, vocab] before temperature; rollout/logprobs [N] of the labels under softmax(logits /
// temperature), 0 where ignored; rollout/sampling_logprobs [N] the same within the smallest set of most
// probable tokens that holds top_p of the probability, renormalised, 0 where ignored or outside of it;
// rollout/in_support [N] int64, 1 where the label is in that set (0 where ignored); rollout/routes/layers.<i>
// [N, k] int64 of a mixture of experts. spec.batch and spec.left_pad change nothing here: a sequence is
// always alone.
TensorMap rollout(const ModelConfig& config, const TensorMap& weights, const Batch& batch,
                  const RolloutSpec& spec, const TensorMap& routes = {});

// The last three but routes, from logits of any origin [N, vocab] (those of training, say).
TensorMap sampled(const at::Tensor& logits, const Batch& batch, const RolloutSpec& spec);

}  // namespace meshparity::reference

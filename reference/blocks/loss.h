// The loss policies and the other terms of tokens. A policy is a sum of the tokens' cross entropies with
// weights that only the labels decide, so it is a function that returns those weights; a new one is one more
// branch of `loss_weights`. Legend: N tokens, D documents, M micro-batches. Cross entropy and logprobs in
// nats.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>

#include "harness/types/batch.h"

namespace meshparity::reference {

// log softmax(logits)[label] where the label is valid, else 0. logits [N, vocab], labels [N] int64 -> [N].
at::Tensor label_logprobs(const at::Tensor& logits, const at::Tensor& labels);

// What a term divides by, as float64: token_mean, policy_gradient and lm_z [] = valid labels of the whole
// batch, sum [] = 1, sequence_mean [D] = valid labels per document, micro_batch_mean [M] = per micro-batch,
// num_tokens [] = train.num_tokens, mtp [] = valid labels that are not their document's first, router_z and
// aux [M] = routers (one per layer) * tokens of the micro-batch.
at::Tensor loss_denominators(const std::string& term, const Batch& batch, const TrainSpec& train,
                             std::int64_t routers = 0);

// -min(rho A, clip(rho, 0.8, 1.2) A) of every token with rho = exp(logprob - old_logprob); all [N].
at::Tensor policy_gradient(const at::Tensor& logprobs, const at::Tensor& advantages,
                           const at::Tensor& old_logprobs);

// w with loss = -sum_t w_t logprob_t; 0 where the label is ignored, all 0 where no label is valid. float64
// [N]. Throws InputError on an unknown policy. Source: design.md 5.
at::Tensor loss_weights(const std::string& policy, const Batch& batch, const TrainSpec& train);

}  // namespace meshparity::reference

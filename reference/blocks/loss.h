// The loss policies. Every one is a sum of the tokens' cross entropies with weights that only the labels
// decide, so a policy is a function that returns those weights; a new policy is one more branch of
// `loss_weights`. Legend: N tokens, D documents, M micro-batches. Cross entropy and logprobs in nats.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "harness/types/batch.h"

namespace meshparity::reference {

// log softmax(logits)[label] where the label is valid, else 0. logits [N, vocab], labels [N] int64 -> [N].
at::Tensor label_logprobs(const at::Tensor& logits, const at::Tensor& labels);

// What a policy divides by, as float64: token_mean [] = valid labels of the whole batch, sum [] = 1,
// sequence_mean [D] = valid labels per document, micro_batch_mean [M] = per micro-batch, num_tokens [] =
// train.num_tokens.
at::Tensor loss_denominators(const std::string& policy, const Batch& batch, const TrainSpec& train);

// w with loss = -sum_t w_t logprob_t; 0 where the label is ignored, all 0 where no label is valid. float64
// [N]. Throws InputError on an unknown policy. Source: design.md 5.
at::Tensor loss_weights(const std::string& policy, const Batch& batch, const TrainSpec& train);

}  // namespace meshparity::reference

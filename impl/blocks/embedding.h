// The two ends of the model, over vocabulary shards: embedding lookup, and logits with their cross entropy.
// Shapes: T tokens, D hidden, Vl local vocabulary rows starting at `begin`.
#pragma once

#include "impl/autograd.h"
#include "impl/blocks/context.h"

namespace meshparity::impl {

// Rows of the local table [Vl, D] for global ids [T]; zero where the id is not in [begin, begin + Vl).
at::Tensor embedding_lookup(const at::Tensor& table, const at::Tensor& ids, std::int64_t begin);

// Embeddings of the stream in residual order; other ranks' rows come in the one collective on leaving.
at::Tensor embed(const BlockContext& context, const at::Tensor& table, const at::Tensor& ids,
                 std::int64_t begin, const Site& site = "embed_tokens");

struct HeadOutput {
  at::Tensor logits;    // [T, Vl], not gathered, not differentiable: for records
  at::Tensor logprobs;  // [T] of the labels, in nats, 0 where there is no label; the same on all tp ranks;
                        // differentiable
  at::Tensor log_sums;  // [T] logsumexp of every token's logits, likewise; undefined unless asked for
};

// h: final norm's output in residual order; head [Vl, D]; labels [T] of the whole stream.
HeadOutput head_logprobs(const BlockContext& context, const at::Tensor& h, const at::Tensor& head,
                         const at::Tensor& labels, std::int64_t begin, bool log_sums,
                         const Site& site = "lm_head");

}  // namespace meshparity::impl

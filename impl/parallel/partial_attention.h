// Softmax attention over some of the keys, with the log-sum-exp by which such parts are merged, and the
// gradients of one part from the whole's result. What a step of the ring is made of, as entries of the table
// of primitives. Source: qwen35.md 4.6.
#pragma once

#include <functional>

#include "impl/autograd.h"

namespace meshparity::impl {

// Of queries over the keys seen so far: `o` [Hkv, g, queries, d] normalised over those keys, `lse`
// [Hkv, g, queries] in nats. A query that saw none: o = 0, lse = -inf.
struct PartialAttention {
  at::Tensor o, lse;
};

// q [Hkv, g, queries, d], scaled already; k and v [Hkv, 1, keys, d]; bias [queries, keys], added to the
// scores: 0 where seen, else -inf; undefined: all are seen.
PartialAttention partial_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const at::Tensor& bias);

// Over the keys of both parts. Each query must have seen a key in one of them.
PartialAttention merge_attention(const PartialAttention& so_far, const PartialAttention& part);

// Gradients that reach q (of the scaled q), k and v of one part, [Hkv, g, queries, d] and twice
// [Hkv, 1, keys, d], from the result over all keys and its gradient.
Tensors partial_attention_backward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const at::Tensor& bias, const PartialAttention& whole,
                                   const at::Tensor& dout);

struct RingKernels {
  std::function<decltype(partial_attention)> part = partial_attention;
  std::function<decltype(merge_attention)> merge = merge_attention;
  std::function<decltype(partial_attention_backward)> part_backward = partial_attention_backward;
};

}  // namespace meshparity::impl

// Router and experts of the mixture: top-k of a full softmax, and dropless expert FFNs.
// Shapes: T tokens, E experts, k experts per token, F the rank's expert width, D hidden. Source:
// qwen35.md 1.6.
#pragma once

#include "impl/autograd.h"

namespace meshparity::impl {

struct Routing {
  at::Tensor weights;  // [T, k], sum 1 per token, differentiable
  at::Tensor experts;  // [T, k] int64
};

// Softmax over all experts, top k, renormalised over the chosen. logits [T, E].
Routing route(const at::Tensor& logits, std::int64_t k);

// sum over k, in slot order, of w_k * W_down (silu(W_gate x) * W_up x) with gate_up [E, 2F, D] (rows: gate,
// then up) and down [E, D, F]; with F a slice of the expert's width this is the rank's part of the sum over
// tp. No token is dropped, an expert may get none (its gradient is exactly zero).
at::Tensor experts_ffn(const at::Tensor& x, const Routing& routing, const at::Tensor& gate_up,
                       const at::Tensor& down);

// Rows of pairs [T*k, D], in the order token * k + slot, weighted and added slot by slot: [T, D].
at::Tensor combine(const at::Tensor& pairs, const at::Tensor& weights);

}  // namespace meshparity::impl

// Mixture of experts, one expert after another. A further router (grouped, biased) would be another `route`.
// Legend: T tokens, D hidden, E experts, k experts per token, F expert width, Fs shared expert width.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace meshparity::reference {

struct MoeWeights {
  at::Tensor router;              // [E, D]
  at::Tensor experts_gate_up;     // [E, 2F, D] rows 0..F-1 gate, F..2F-1 up
  at::Tensor experts_down;        // [E, D, F]
  at::Tensor shared_gate;         // [Fs, D]
  at::Tensor shared_up;           // [Fs, D]
  at::Tensor shared_down;         // [D, Fs]
  at::Tensor shared_expert_gate;  // [1, D]
};

struct Routing {
  at::Tensor experts;  // [T, k] int64
  at::Tensor weights;  // [T, k], rows sum to 1
};

// The k largest of softmax(x router^T) over all experts, divided by their sum.
Routing route(const at::Tensor& x, const at::Tensor& router, std::int64_t experts_per_token);

// The same probabilities of experts [T, k] that were chosen elsewhere, divided by their sum.
Routing route_to(const at::Tensor& x, const at::Tensor& router, const at::Tensor& experts);

// sum_k weight_k expert_k(x) + sigmoid(shared_expert_gate x) shared_expert(x). x [T, D] -> [T, D].
// Source: qwen35.md 1.6.
at::Tensor moe(const at::Tensor& x, const MoeWeights& weights, std::int64_t experts_per_token);
at::Tensor moe(const at::Tensor& x, const MoeWeights& weights, const Routing& routing);

}  // namespace meshparity::reference

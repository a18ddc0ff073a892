// Gated softmax attention of one document, with the whole causal score matrix in memory.
// Legend: T tokens, D hidden, H query heads, G key-value heads, d head_dim.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "reference/blocks/rope.h"

namespace meshparity::reference {

struct AttentionWeights {
  at::Tensor q_proj;  // [H*2d, D] rows of a head: d of q, then d of its gate
  at::Tensor k_proj;  // [G*d, D]
  at::Tensor v_proj;  // [G*d, D]
  at::Tensor o_proj;  // [D, H*d]
  at::Tensor q_norm;  // [d]
  at::Tensor k_norm;  // [d]
};

// softmax(q k^T / sqrt(d) + causal mask) v; query head j reads key-value head floor(j / (H/G)). The queries
// are those of the last Q tokens. q [Q, H, d], k and v [T, G, d] -> [Q, H, d].
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// What attention sees of x [T, D]: q [T, H, d] and k [T, G, d] normed and rotated, v [T, G, d], and the gate
// [T, H, d] of the output before its sigmoid.
struct AttentionInputs {
  at::Tensor q, k, v, gate;
};
AttentionInputs attention_inputs(const at::Tensor& x, const AttentionWeights& weights,
                                 const RotaryTable& rope, std::int64_t heads, std::int64_t kv_heads,
                                 double eps);

// o_proj (y * sigmoid(gate)). y, gate [T, H, d] -> [T, D].
at::Tensor attention_output(const at::Tensor& y, const at::Tensor& gate, const AttentionWeights& weights);

// The mixer: project, norm q and k, rotate, attend, multiply by sigmoid(gate), project. x [T, D] -> [T, D].
// Source: qwen35.md 1.3.
at::Tensor attention(const at::Tensor& x, const AttentionWeights& weights, const RotaryTable& rope,
                     std::int64_t heads, std::int64_t kv_heads, double eps);

}  // namespace meshparity::reference

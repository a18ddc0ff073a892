// The gated delta rule, token by token, with its backward written out by hand: a loop over tokens then leaves
// one node in the autograd graph instead of a dozen per token. Legend: T tokens, H value heads, K key width,
// V value width.
#pragma once

#include <ATen/ATen.h>

namespace meshparity::reference {

// Per head, from S_0 = 0 in R^(K x V):
//   r_t = v_t - alpha_t S_(t-1)^T k_t,   S_t = alpha_t S_(t-1) + beta_t k_t r_t^T,   o_t = S_t^T q_t,   alpha
//   = e^g.
// q, k [T, H, K] (q already scaled), v [T, H, V], g, beta [T, H] -> o [T, H, V]. Differentiable once.
// Backward keeps the state at every 64th token and repeats the tokens between. Source: qwen35.md 1.5 and 4.2.
at::Tensor gated_delta_rule(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& g, const at::Tensor& beta);

}  // namespace meshparity::reference

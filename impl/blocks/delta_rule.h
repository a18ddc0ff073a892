// The gated delta rule in chunks, over packed documents, with its own backward; never the token recurrence.
//
// Per value head, S_0 = 0 at every document start:  S_t = a_t (I - b_t k_t k_t^T) S_(t-1) + b_t k_t v_t^T,
// o_t = S_t^T q_t K^(-1/2), a_t = exp(g_t). Inside a chunk everything is a product of matrices; across chunks
// the state passes as the affine map S' = M S + E, so the only sequential work is one small product per
// chunk. Source: qwen35.md 4.1, 4.2, 4.8.
#pragma once

#include "impl/autograd.h"
#include "impl/blocks/packed_tokens.h"

namespace meshparity::impl {

// qk [T, 2*Hk*K]: unit queries, then unit keys, head-major; v [T, Hv*V]; g (log decay, <= 0) and beta [T,
// Hv]; value head j reads key head j / (Hv/Hk). Returns o [T, Hv*V]. Accumulates in the tensors' dtype.
at::Tensor delta_rule(const at::Tensor& qk, const at::Tensor& v, const at::Tensor& g, const at::Tensor& beta,
                      const PackedTokens& tokens, std::int64_t key_dim);

// The same where documents begin with states: states [D, Hv, K, V] of the D documents of `tokens`, in their
// order -> o [T, Hv*V] and the states after the documents' last tokens, [D, Hv, K, V], a new tensor. Forward
// only.
Tensors delta_rule_from(const at::Tensor& qk, const at::Tensor& v, const at::Tensor& g,
                        const at::Tensor& beta, const at::Tensor& states, const PackedTokens& tokens,
                        std::int64_t key_dim);

// The two gates: g = -exp(A_log) * softplus(a + dt_bias) (linear above 20), beta = sigmoid(b). a, b [T, Hv];
// A_log, dt_bias [Hv].
Tensors delta_gates(const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_log,
                    const at::Tensor& dt_bias);

}  // namespace meshparity::impl

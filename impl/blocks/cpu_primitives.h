// The fused CPU versions of the primitives: one pass over memory and one graph node each, where the ATen
// versions pay a dispatch per elementary operation (at the sizes of a sweep that is nearly all they cost).
// Signatures, shapes and values are those of the ATen versions, to which each falls back for tensors that are
// not float64 or float32 on the CPU. To add one: its kernel in cpu_rows.cpp (or a file beside it), its
// wrapper here, its line in primitives.cpp.
#pragma once

#include "impl/autograd.h"
#include "impl/blocks/experts.h"
#include "impl/blocks/packed_tokens.h"

namespace meshparity::impl::cpu {

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);
at::Tensor gated_rms_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& z, double eps);
at::Tensor l2norm(const at::Tensor& x, std::int64_t width);
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
at::Tensor sigmoid_gate(const at::Tensor& value, const at::Tensor& gate);
at::Tensor rope(const at::Tensor& x, const PackedTokens& tokens);
Tensors short_conv(const at::Tensor& u, const at::Tensor& weight, const PackedTokens& tokens,
                   std::int64_t split);
Tensors delta_gates(const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_log,
                    const at::Tensor& dt_bias);
at::Tensor delta_rule(const at::Tensor& qk, const at::Tensor& v, const at::Tensor& g, const at::Tensor& beta,
                      const PackedTokens& tokens, std::int64_t key_dim);
Tensors delta_rule_from(const at::Tensor& qk, const at::Tensor& v, const at::Tensor& g,
                        const at::Tensor& beta, const at::Tensor& states, const PackedTokens& tokens,
                        std::int64_t key_dim);
Routing route(const at::Tensor& logits, std::int64_t k);
at::Tensor experts_ffn(const at::Tensor& x, const Routing& routing, const at::Tensor& gate_up,
                       const at::Tensor& down);
// cpu_vocabulary.cpp; cross_entropy.h and embedding.h say what they compute.
at::Tensor embedding_lookup(const at::Tensor& table, const at::Tensor& ids, std::int64_t begin);
at::Tensor logit_sums(const at::Tensor& logits, const at::Tensor& max, const at::Tensor& labels,
                      std::int64_t begin);
at::Tensor logit_gradient(const at::Tensor& logits, const at::Tensor& lse, const at::Tensor& labels,
                          std::int64_t begin, const at::Tensor& dlogprob);

}  // namespace meshparity::impl::cpu

// The GatedDeltaNet mixer of one document: convolve, gate, normalise, recur (delta_rule.h), norm, project.
// Legend: T tokens, D hidden, h key heads, H value heads, K key width, V value width, C = 2hK + HV channels.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace meshparity::reference {

struct GatedDeltaNetWeights {
  at::Tensor in_proj_qkv;  // [C, D] rows Q (hK) | K (hK) | V (HV), head-major
  at::Tensor in_proj_z;    // [HV, D]
  at::Tensor in_proj_b;    // [H, D]
  at::Tensor in_proj_a;    // [H, D]
  at::Tensor conv1d;       // [C, 1, taps], the last tap meets the current token
  at::Tensor a_log;        // [H]
  at::Tensor dt_bias;      // [H]
  at::Tensor norm;         // [V]
  at::Tensor out_proj;     // [D, HV]
};

// silu(sum_j weight_j x_(t-taps+1+j)) per channel, zeros before the document. x [T, C], weight [C, 1, taps]
// -> [T, C].
at::Tensor causal_conv_silu(const at::Tensor& x, const at::Tensor& weight);

// x (sum_j x_j^2 + 1e-6)^(-1/2) over the last dimension: the sum, not the mean.
at::Tensor l2_norm(const at::Tensor& x);

// Log of the decay: -e^a_log softplus(a + dt_bias), softplus linear above 20. a [T, H] -> [T, H].
at::Tensor log_decay(const at::Tensor& a, const at::Tensor& a_log, const at::Tensor& dt_bias);

// What the delta rule sees of x [T, D] and of its convolved channels [T, C]: q and k [T, H, K], normed,
// repeated for the value heads, q scaled by K^(-1/2); v [T, H, V]; g (log of the decay) and beta [T, H].
struct DeltaRuleInputs {
  at::Tensor q, k, v, g, beta;
};
DeltaRuleInputs delta_rule_inputs(const at::Tensor& x, const at::Tensor& convolved,
                                  const GatedDeltaNetWeights& weights, std::int64_t key_heads,
                                  std::int64_t value_heads);

// out_proj of the delta rule's o [T, H, V], normed and gated by x [T, D] -> [T, D].
at::Tensor gated_delta_output(const at::Tensor& o, const at::Tensor& x, const GatedDeltaNetWeights& weights,
                              double eps);

// x [T, D] -> [T, D]. Source: qwen35.md 1.5.
at::Tensor gated_delta_net(const at::Tensor& x, const GatedDeltaNetWeights& weights, std::int64_t key_heads,
                           std::int64_t value_heads, double eps);

}  // namespace meshparity::reference

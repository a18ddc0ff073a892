#include "reference/blocks/gated_delta_net.h"

#include <cmath>

#include "reference/blocks/delta_rule.h"
#include "reference/blocks/rms_norm.h"

namespace meshparity::reference {

at::Tensor causal_conv_silu(const at::Tensor& x, const at::Tensor& weight) {
  const std::int64_t tokens = x.size(0), taps = weight.size(2);
  const at::Tensor padded = at::constant_pad_nd(x, {0, 0, taps - 1, 0});
  at::Tensor sum = at::zeros_like(x);
  for (std::int64_t j = 0; j < taps; ++j)
    sum = sum + padded.narrow(0, j, tokens) * weight.select(2, j).squeeze(1);
  return at::silu(sum);
}

at::Tensor l2_norm(const at::Tensor& x) {
  return x * at::rsqrt(x.square().sum(-1, /*keepdim=*/true) + 1e-6);
}

at::Tensor log_decay(const at::Tensor& a, const at::Tensor& a_log, const at::Tensor& dt_bias) {
  // Beyond 20 the linear branch differs by up to e^-20 from the exact function: the published model takes it
  // too.
  return -a_log.exp() * at::softplus(a + dt_bias, /*beta=*/1, /*threshold=*/20);
}

DeltaRuleInputs delta_rule_inputs(const at::Tensor& x, const at::Tensor& convolved,
                                  const GatedDeltaNetWeights& weights, std::int64_t key_heads,
                                  std::int64_t value_heads) {
  const std::int64_t tokens = x.size(0), value_width = weights.norm.size(0);
  const std::int64_t key_channels = (weights.conv1d.size(0) - value_heads * value_width) / 2;
  const std::int64_t key_width = key_channels / key_heads, values_per_key = value_heads / key_heads;

  at::Tensor q = convolved.narrow(1, 0, key_channels).reshape({tokens, key_heads, key_width});
  at::Tensor k = convolved.narrow(1, key_channels, key_channels).reshape({tokens, key_heads, key_width});
  const at::Tensor v = convolved.narrow(1, 2 * key_channels, value_heads * value_width)
                           .reshape({tokens, value_heads, value_width});
  q = l2_norm(q).repeat_interleave(values_per_key, 1) / std::sqrt(static_cast<double>(key_width));
  k = l2_norm(k).repeat_interleave(values_per_key, 1);
  const at::Tensor beta = at::sigmoid(at::linear(x, weights.in_proj_b));
  return {q, k, v, log_decay(at::linear(x, weights.in_proj_a), weights.a_log, weights.dt_bias), beta};
}

at::Tensor gated_delta_output(const at::Tensor& o, const at::Tensor& x, const GatedDeltaNetWeights& weights,
                              double eps) {
  const at::Tensor z = at::linear(x, weights.in_proj_z).view(o.sizes());
  return at::linear(gated_rms_norm(o, z, weights.norm, eps).reshape({o.size(0), -1}), weights.out_proj);
}

at::Tensor gated_delta_net(const at::Tensor& x, const GatedDeltaNetWeights& weights, std::int64_t key_heads,
                           std::int64_t value_heads, double eps) {
  const at::Tensor convolved = causal_conv_silu(at::linear(x, weights.in_proj_qkv), weights.conv1d);
  const DeltaRuleInputs in = delta_rule_inputs(x, convolved, weights, key_heads, value_heads);
  return gated_delta_output(gated_delta_rule(in.q, in.k, in.v, in.g, in.beta), x, weights, eps);
}

}  // namespace meshparity::reference

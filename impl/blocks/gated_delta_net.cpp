#include "impl/blocks/gated_delta_net.h"

namespace meshparity::impl {

at::Tensor gated_delta_net_block(const BlockContext& context, const UnitWeights& w, const at::Tensor& x,
                                 const Site& site) {
  const Primitives& f = context.primitives;
  const std::int64_t key_dim = context.config.linear_key_head_dim;
  const at::Tensor entered = context.tp.enter(x, site + ".linear_attn");
  const Tensors projected =
      f.linear(entered, {w["linear_attn.in_proj_qkv.weight"], w["linear_attn.in_proj_z.weight"],
                         w["linear_attn.in_proj_b.weight"], w["linear_attn.in_proj_a.weight"]});
  // This rank's channels: q and k of its key heads, then v of its value heads.
  const at::Tensor& z = projected[1];
  const std::int64_t qk_width = projected[0].size(1) - z.size(1);
  const Tensors mixed = f.short_conv(projected[0], w["linear_attn.conv1d.weight"], *context.tokens, qk_width);
  const Tensors gates =
      f.delta_gates(projected[3], projected[2], w["linear_attn.A_log"], w["linear_attn.dt_bias"]);
  const at::Tensor o =
      f.delta_rule(f.l2norm(mixed[0], key_dim), mixed[1], gates[0], gates[1], *context.tokens, key_dim);
  const at::Tensor normed = f.gated_rms_norm(o, w["linear_attn.norm.weight"], z, context.config.rms_norm_eps);
  return context.tp.leave(f.linear(normed, {w["linear_attn.out_proj.weight"]})[0],
                          site + ".linear_attn.out_proj");
}

}  // namespace meshparity::impl

#include "impl/blocks/attention.h"

namespace meshparity::impl {

at::Tensor attention_block(const BlockContext& context, const UnitWeights& w, const at::Tensor& x,
                           const Site& site) {
  const Primitives& f = context.primitives;
  const std::int64_t d = context.config.head_dim;
  const double eps = context.config.rms_norm_eps;
  const at::Tensor entered = context.tp.enter(x, site + ".self_attn");
  const Tensors projected = f.linear(
      entered, {w["self_attn.q_proj.weight"], w["self_attn.k_proj.weight"], w["self_attn.v_proj.weight"]});
  const Tensors query_gate = f.split_query_gate(projected[0], d);
  const at::Tensor q = f.rope(f.head_norm(query_gate[0], w["self_attn.q_norm.weight"], eps), *context.tokens);
  const at::Tensor k = f.rope(f.head_norm(projected[1], w["self_attn.k_norm.weight"], eps), *context.tokens);
  const at::Tensor attended =
      f.output_gate(f.attention(q, k, projected[2], *context.tokens, d), query_gate[1]);
  return context.tp.leave(f.linear(attended, {w["self_attn.o_proj.weight"]})[0], site + ".self_attn.o_proj");
}

}  // namespace meshparity::impl

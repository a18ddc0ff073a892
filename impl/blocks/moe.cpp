#include "impl/blocks/moe.h"

namespace meshparity::impl {

at::Tensor moe_block(const BlockContext& context, const UnitWeights& w, const at::Tensor& x,
                     const Site& site) {
  const Primitives& f = context.primitives;
  const at::Tensor entered = context.tp.enter(x, site + ".mlp");
  // The replicated products are apart from the sharded ones: same shapes on every tp rank, so the same bits
  // and routes.
  const Tensors scores = f.linear(entered, {w["mlp.gate.weight"], w["mlp.shared_expert_gate.weight"]});
  const Routing routing = f.route(scores[0], context.config.num_experts_per_tok);
  const at::Tensor routed =
      f.experts_ffn(entered, routing, w["mlp.experts.gate_up_proj"], w["mlp.experts.down_proj"]);
  const Tensors h =
      f.linear(entered, {w["mlp.shared_expert.gate_proj.weight"], w["mlp.shared_expert.up_proj.weight"]});
  const at::Tensor shared = f.linear(f.swiglu(h[0], h[1]), {w["mlp.shared_expert.down_proj.weight"]})[0];
  return context.tp.leave(routed + f.shared_expert_gate(shared, scores[1]), site + ".mlp.experts");
}

}  // namespace meshparity::impl

#include "impl/blocks/moe.h"

#include "harness/types/cut.h"

namespace meshparity::impl {
namespace {

// What the routed experts add to every token of x [T, D], given the router's scores [T, E]. `tokens`: which
// of this rank's tokens these are.
at::Tensor routed_experts(const BlockContext& context, const UnitWeights& w, const at::Tensor& x,
                          const at::Tensor& scores, Range tokens, const Site& site) {
  const Primitives& f = context.primitives;
  const at::Tensor &gate_up = w["mlp.experts.gate_up_proj"], &down = w["mlp.experts.down_proj"];
  Routing routing = context.cached ? context.cached->route(scores, tokens, site)
                                   : f.route(scores, context.config.num_experts_per_tok);
  if (context.router) {
    const at::Tensor& real = context.router->real;
    routing.weights =
        f.with_router_loss(context.router, scores, routing,
                           real.defined() ? real.slice(0, tokens.begin, tokens.end) : real, site);
  }
  if (context.expert.group->size() == 1) return f.experts_ffn(x, routing, gate_up, down);

  const ExpertRoutes routes =
      f.expert_routes(context.expert, routing.experts, context.config.num_experts, site + ".experts");
  const at::Tensor arrived = dispatch(context.expert, routes, x, site + ".experts");
  const Routing one_each{at::ones({arrived.size(0), 1}, arrived.options().requires_grad(false)),
                         routes.experts.unsqueeze(1)};
  const at::Tensor pairs =
      collect(context.expert, routes, f.experts_ffn(arrived, one_each, gate_up, down), site + ".experts");
  return f.combine(pairs, routing.weights);
}

// Experts that are whole on every tp rank: each takes its part of the tokens to them.
at::Tensor moe_of_cut_tokens(const BlockContext& context, const UnitWeights& w, const at::Tensor& x,
                             const Site& site) {
  const Primitives& f = context.primitives;
  const TensorParallel& tp = context.tp;
  std::vector<std::int64_t> sizes = tp.sizes;
  if (!tp.sequence)
    for (int r = 0; r < tp.group->size(); ++r) sizes[r] = cut(x.size(0), tp.group->size(), r).size();
  const at::Tensor own =
      tp.sequence ? x : split_to(*tp.collectives, *tp.group, x, sizes, 0, site + ".mlp.experts.split");
  std::int64_t begin = 0;
  for (int r = 0; r < tp.group->rank(); ++r) begin += sizes[r];
  at::Tensor routed = routed_experts(context, w, own, f.router_linear(own, {w["mlp.gate.weight"]})[0],
                                     {begin, begin + own.size(0)}, site + ".mlp");
  if (!tp.sequence)
    routed = join_from(*tp.collectives, *tp.group, routed, sizes, 0, site + ".mlp.experts.join");

  const at::Tensor entered = tp.enter(x, site + ".mlp");
  const at::Tensor score = f.linear(entered, {w["mlp.shared_expert_gate.weight"]})[0];
  const Tensors h =
      f.linear(entered, {w["mlp.shared_expert.gate_proj.weight"], w["mlp.shared_expert.up_proj.weight"]});
  const at::Tensor shared = f.linear(f.swiglu(h[0], h[1]), {w["mlp.shared_expert.down_proj.weight"]})[0];
  return routed + tp.leave(f.shared_expert_gate(shared, score), site + ".mlp.shared_expert");
}

}  // namespace

at::Tensor moe_block(const BlockContext& context, const UnitWeights& w, const at::Tensor& x,
                     const Site& site) {
  if (context.expert.tokens_cut) return moe_of_cut_tokens(context, w, x, site);
  const Primitives& f = context.primitives;
  const at::Tensor entered = context.tp.enter(x, site + ".mlp");
  // The replicated products are apart from the sharded ones: same shapes on every tp rank, so the same bits
  // and routes.
  const Tensors scores = f.router_linear(entered, {w["mlp.gate.weight"], w["mlp.shared_expert_gate.weight"]});
  const at::Tensor routed =
      routed_experts(context, w, entered, scores[0], {0, entered.size(0)}, site + ".mlp");
  const Tensors h =
      f.linear(entered, {w["mlp.shared_expert.gate_proj.weight"], w["mlp.shared_expert.up_proj.weight"]});
  const at::Tensor shared = f.linear(f.swiglu(h[0], h[1]), {w["mlp.shared_expert.down_proj.weight"]})[0];
  return context.tp.leave(routed + f.shared_expert_gate(shared, scores[1]), site + ".mlp.experts");
}

}  // namespace meshparity::impl

// The mixture-of-experts block on every mesh of tp, ep and etp.
//   etp = tp  every tp rank routes all tokens and computes its slice of every expert's width, as of the
//   shared
//             expert's. One collective enters for router, experts, shared gate and up; one leaves with the
//             routed and the shared partial sums together. Routing weights and the shared gate multiply
//             partial sums, so their gradients are partial over tp.
//   etp = 1   experts are whole: every tp rank routes its part of the tokens (sp has cut them already, else
//             they are cut here and joined after), so the router's gradient is partial over tp as well. The
//             shared expert stays tensor-parallel.
//   ep > 1    rows travel to the ranks that hold their experts (impl/parallel/expert.h).
// plan.cpp sums what is partial. The router's terms of the loss (router_loss.h) enter where it decides; with
// etp = tp every tp rank sees the same decisions, so each carries its share of their gradient. Source:
// qwen35.md 1.6, 3.1, 3.2.
#pragma once

#include "impl/blocks/context.h"

namespace meshparity::impl {

// x: normed residual stream, residual order -> block output before the residual add, residual order.
at::Tensor moe_block(const BlockContext& context, const UnitWeights& weights, const at::Tensor& x,
                     const Site& site);

}  // namespace meshparity::impl

// The mixture-of-experts block with tensor-sharded experts (etp = tp): every rank routes all tokens and
// computes its slice of every expert and of the shared expert. One collective enters for router, experts,
// shared gate and up; one leaves with the routed and the shared partial sums together. Routing weights and
// the shared gate multiply partial sums, so the router's and the shared gate's gradients are partial over tp
// (plan.cpp sums them). Source: qwen35.md 1.6, 3.1.
#pragma once

#include "impl/blocks/context.h"

namespace meshparity::impl {

// x: normed residual stream, residual order -> block output before the residual add, residual order.
at::Tensor moe_block(const BlockContext& context, const UnitWeights& weights, const at::Tensor& x,
                     const Site& site);

}  // namespace meshparity::impl

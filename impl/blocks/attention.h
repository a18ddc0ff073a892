// The gated softmax-attention mixer (every fourth layer), tensor-parallel over heads. Source: qwen35.md 1.3.
#pragma once

#include "impl/blocks/context.h"

namespace meshparity::impl {

// x: normed residual stream, residual order -> mixer output before the residual add, residual order.
at::Tensor attention_block(const BlockContext& context, const UnitWeights& weights, const at::Tensor& x,
                           const Site& site);

}  // namespace meshparity::impl

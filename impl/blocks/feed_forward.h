// The dense SwiGLU feed-forward block, tensor-parallel over its width. Source: qwen35.md 1.6.
#pragma once

#include "impl/blocks/context.h"

namespace meshparity::impl {

// x: normed residual stream, residual order -> block output before the residual add, residual order.
at::Tensor feed_forward_block(const BlockContext& context, const UnitWeights& weights, const at::Tensor& x,
                              const Site& site);

}  // namespace meshparity::impl

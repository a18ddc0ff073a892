// The GatedDeltaNet mixer, tensor-parallel over key heads with their value heads. Source: qwen35.md 1.5.
#pragma once

#include "impl/blocks/context.h"

namespace meshparity::impl {

// x: normed residual stream, residual order -> mixer output before the residual add, residual order.
at::Tensor gated_delta_net_block(const BlockContext& context, const UnitWeights& weights, const at::Tensor& x,
                                 const Site& site);

}  // namespace meshparity::impl

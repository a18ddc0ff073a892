// Partial rotary embedding of per-head vectors with tables made once per micro-batch (packed_tokens.h).
#pragma once

#include "impl/autograd.h"
#include "impl/blocks/packed_tokens.h"

namespace meshparity::impl {

// x [T, n*head_dim] -> the same shape; the first rotary_dim entries of every head rotate in pairs (i, i +
// rotary_dim/2).
at::Tensor rope(const at::Tensor& x, const PackedTokens& tokens);

}  // namespace meshparity::impl

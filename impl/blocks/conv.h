// The short causal depthwise convolution in front of the delta rule, with SiLU, over packed documents.
#pragma once

#include "impl/autograd.h"
#include "impl/blocks/packed_tokens.h"

namespace meshparity::impl {

// silu(sum_j w_j * u_(t-W+1+j)) per channel, taps before the document's first token are zero. u [T, C],
// weight [C, 1, W]; the result comes in two parts: channels [0, split) and [split, C), i.e. (q|k, v). Source:
// qwen35.md 1.5 step 1.
Tensors short_conv(const at::Tensor& u, const at::Tensor& weight, const PackedTokens& tokens,
                   std::int64_t split);

}  // namespace meshparity::impl

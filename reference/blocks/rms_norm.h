// The two root-mean-square norms of the model. Zero-centred: input, post-attention, final, q and k norms.
// Gated: the output norm of GatedDeltaNet, whose weight is stored plainly. A third norm would be a third
// function here.
#pragma once

#include <ATen/ATen.h>

namespace meshparity::reference {

// x (mean_j x_j^2 + eps)^(-1/2) (1 + weight) over the last dimension. x [..., n], weight [n] -> [..., n].
// Source: qwen35.md 1.2.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

// x (mean_j x_j^2 + eps)^(-1/2) weight silu(gate) over the last dimension. x, gate [..., n], weight [n] ->
// [..., n]. Source: qwen35.md 1.5, step 5.
at::Tensor gated_rms_norm(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& weight, double eps);

}  // namespace meshparity::reference

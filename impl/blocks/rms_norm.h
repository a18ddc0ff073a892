// The three norms of the model, each with its own backward. To add a norm: one function here, one row in
// primitives.h. Shapes: T tokens; a row of x holds size(1)/width groups of `width` and each group is
// normalised by itself (heads). Statistics in the tensors' dtype. Source: qwen35.md 1.2, 1.5.
#pragma once

#include "impl/autograd.h"

namespace meshparity::impl {

// Zero-centred: x * (mean x^2 + eps)^(-1/2) * (1 + w); w [width], x [T, n*width].
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

// w * x * (mean x^2 + eps)^(-1/2) * silu(z); w [width] plain, x and z [T, n*width].
at::Tensor gated_rms_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& z, double eps);

// x * (sum x^2 + 1e-6)^(-1/2) in groups of `width`: sum, not mean.
at::Tensor l2norm(const at::Tensor& x, std::int64_t width);

}  // namespace meshparity::impl

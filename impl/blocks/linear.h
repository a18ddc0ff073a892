// Several bias-free linear maps of one input as one product, and the small elementwise gates around them.
// Each is one graph node with its own backward. To add an elementwise gate: one function here, one row in
// primitives.h. Shapes: T tokens, D input width, N_i output widths. Accumulation in the tensors' dtype.
#pragma once

#include "impl/autograd.h"

namespace meshparity::impl {

// y_i = x W_iᵀ for every weight [N_i, D]; x [T, D] -> y_i [T, N_i] (slices of one product: rows are strided).
Tensors linear(const at::Tensor& x, const Tensors& weights);

// silu(gate) * up, elementwise, [T, F].
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

// value * sigmoid(gate); gate has value's shape, or one column that scales each row. Used for the output gate
// of attention and, with a [T, 1] gate, for the shared expert.
at::Tensor sigmoid_gate(const at::Tensor& value, const at::Tensor& gate);

}  // namespace meshparity::impl

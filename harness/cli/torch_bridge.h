// Between LibTorch tensors (reference, impl) and the harness's plain ones.
#pragma once

#include <ATen/ATen.h>

#include "harness/types/tensor.h"

namespace meshparity::cli {

DType dtype_of(at::ScalarType type);  // throws InputError for a type the harness does not judge
at::ScalarType scalar_type_of(DType type);
// A view of a contiguous CPU tensor, which must outlive it.
TensorView view_of(const at::Tensor& tensor);
HostTensor to_host(const at::Tensor& tensor);  // copies; any device, any layout
// Shares the host tensor's memory, which must outlive the result.
at::Tensor alias_of(const HostTensor& tensor);

}  // namespace meshparity::cli

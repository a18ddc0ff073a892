// Between the project's plain tensors and LibTorch's. Both directions copy.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>

#include "harness/types/tensor.h"

namespace meshparity::reference {

at::ScalarType scalar_type_of(DType dtype);
// Throws InputError on a dtype the project has no name for.
DType dtype_of(at::ScalarType type);

at::Tensor to_tensor(const TensorView& view);
HostTensor to_host(const at::Tensor& tensor);

std::map<std::string, at::Tensor> to_tensors(const std::map<std::string, HostTensor>& tensors);
std::map<std::string, HostTensor> to_hosts(const std::map<std::string, at::Tensor>& tensors);

}  // namespace meshparity::reference

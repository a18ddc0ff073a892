#include "reference/host_tensor.h"

#include <cstring>

#include "harness/types/error.h"

namespace meshparity::reference {

at::ScalarType scalar_type_of(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return at::kDouble;
    case DType::float32:
      return at::kFloat;
    case DType::float16:
      return at::kHalf;
    case DType::bfloat16:
      return at::kBFloat16;
    case DType::int64:
      return at::kLong;
    case DType::int32:
      return at::kInt;
    case DType::uint8:
      return at::kByte;
    case DType::boolean:
      return at::kBool;
  }
  throw InputError("unknown dtype");
}

DType dtype_of(at::ScalarType type) {
  for (DType dtype : {DType::float64, DType::float32, DType::float16, DType::bfloat16, DType::int64,
                      DType::int32, DType::uint8, DType::boolean}) {
    if (scalar_type_of(dtype) == type) return dtype;
  }
  throw InputError(std::string("dtype ") + at::toString(type) + " has no counterpart");
}

at::Tensor to_tensor(const TensorView& view) {
  const at::Tensor tensor = at::empty(view.shape, at::TensorOptions(scalar_type_of(view.dtype)));
  // An empty tensor may have no memory at all, which memcpy must not be given.
  if (view.bytes() > 0) std::memcpy(tensor.data_ptr(), view.data, view.bytes());
  return tensor;
}

HostTensor to_host(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.detach().to(at::kCPU).contiguous();
  HostTensor host = HostTensor::zeros(dtype_of(plain.scalar_type()), plain.sizes().vec());
  if (!host.bytes.empty()) std::memcpy(host.bytes.data(), plain.data_ptr(), host.bytes.size());
  return host;
}

std::map<std::string, at::Tensor> to_tensors(const std::map<std::string, HostTensor>& tensors) {
  std::map<std::string, at::Tensor> result;
  for (const auto& [name, tensor] : tensors) result[name] = to_tensor(tensor.view());
  return result;
}

std::map<std::string, HostTensor> to_hosts(const std::map<std::string, at::Tensor>& tensors) {
  std::map<std::string, HostTensor> result;
  for (const auto& [name, tensor] : tensors) result[name] = to_host(tensor);
  return result;
}

}  // namespace meshparity::reference

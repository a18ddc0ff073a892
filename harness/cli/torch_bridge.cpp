#include "harness/cli/torch_bridge.h"

#include "harness/types/error.h"

namespace meshparity::cli {
namespace {

constexpr std::pair<DType, at::ScalarType> kTypes[] = {
    {DType::float64, at::kDouble},    {DType::float32, at::kFloat}, {DType::float16, at::kHalf},
    {DType::bfloat16, at::kBFloat16}, {DType::int64, at::kLong},    {DType::int32, at::kInt},
    {DType::uint8, at::kByte},        {DType::boolean, at::kBool}};

}  // namespace

DType dtype_of(at::ScalarType type) {
  for (const auto& [ours, theirs] : kTypes)
    if (theirs == type) return ours;
  throw InputError(std::string("tensors of type ") + at::toString(type) + " are not judged");
}

at::ScalarType scalar_type_of(DType type) {
  return kTypes[static_cast<int>(type)].second;
}

TensorView view_of(const at::Tensor& tensor) {
  if (!tensor.is_contiguous() || !tensor.device().is_cpu())
    throw RunError("a record must be a contiguous CPU tensor, found " + tensor.toString());
  return {dtype_of(tensor.scalar_type()), tensor.sizes().vec(),
          static_cast<const std::byte*>(tensor.data_ptr())};
}

HostTensor to_host(const at::Tensor& tensor) {
  return HostTensor::copy_of(view_of(tensor.detach().to(at::kCPU).contiguous()));
}

at::Tensor alias_of(const HostTensor& tensor) {
  return at::from_blob(const_cast<std::byte*>(tensor.bytes.data()), tensor.shape,
                       at::TensorOptions(scalar_type_of(tensor.dtype)));
}

}  // namespace meshparity::cli

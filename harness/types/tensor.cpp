#include "harness/types/tensor.h"

#include <cmath>

#include "harness/types/error.h"

namespace meshparity {
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::size_t size;
  double roundoff;
};
constexpr DTypeRow kDTypes[] = {
    {DType::float64, "float64", 8, 0x1p-53}, {DType::float32, "float32", 4, 0x1p-24},
    {DType::float16, "float16", 2, 0x1p-11}, {DType::bfloat16, "bfloat16", 2, 0x1p-8},
    {DType::int64, "int64", 8, 0.0},         {DType::int32, "int32", 4, 0.0},
    {DType::uint8, "uint8", 1, 0.0},         {DType::boolean, "bool", 1, 0.0},
};
const DTypeRow& row(DType dtype) {
  return kDTypes[static_cast<int>(dtype)];
}

double half_to_double(std::uint16_t h) {
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  const double sign = (h >> 15) ? -1.0 : 1.0;
  if (exponent == 31) return mantissa ? std::nan("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

}  // namespace

std::size_t dtype_size(DType dtype) {
  return row(dtype).size;
}
std::string_view dtype_name(DType dtype) {
  return row(dtype).name;
}
double unit_roundoff(DType dtype) {
  return row(dtype).roundoff;
}
bool is_floating(DType dtype) {
  return row(dtype).roundoff > 0;
}

DType parse_dtype(std::string_view name) {
  for (const auto& r : kDTypes)
    if (r.name == name) return r.dtype;
  throw InputError("dtype '" + std::string(name) + "' is unknown: float64, float32, bfloat16, ...");
}

std::int64_t shape_numel(const Shape& shape) {
  std::int64_t n = 1;
  for (auto s : shape) n *= s;
  return n;
}

std::string shape_text(const Shape& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? "," : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string index_text(const Shape& shape, std::int64_t flat) {
  std::string text;
  for (std::size_t d = shape.size(); d-- > 0; flat /= shape[d])
    text = std::to_string(flat % shape[d]) + (text.empty() ? "" : "," + text);
  return "[" + text + "]";
}

namespace {

// Files put tensors at any offset, so an element may lie across what its type must be aligned to.
template <class T>
T element(const std::byte* data, std::int64_t i) {
  T value;
  std::memcpy(&value, data + i * static_cast<std::int64_t>(sizeof value), sizeof value);
  return value;
}

}  // namespace

double TensorView::at(std::int64_t i) const {
  switch (dtype) {
    case DType::float64:
      return element<double>(data, i);
    case DType::float32:
      return element<float>(data, i);
    case DType::float16:
      return half_to_double(element<std::uint16_t>(data, i));
    case DType::bfloat16: {
      const std::uint32_t bits = static_cast<std::uint32_t>(element<std::uint16_t>(data, i)) << 16;
      float f;
      std::memcpy(&f, &bits, 4);
      return f;
    }
    case DType::int64:
      return static_cast<double>(element<std::int64_t>(data, i));
    case DType::int32:
      return element<std::int32_t>(data, i);
    case DType::uint8:
    case DType::boolean:
      return element<std::uint8_t>(data, i);
  }
  return 0;
}

HostTensor HostTensor::zeros(DType dtype, Shape shape) {
  HostTensor t;
  t.dtype = dtype;
  t.shape = std::move(shape);
  t.bytes.resize(static_cast<std::size_t>(t.numel()) * dtype_size(dtype));
  return t;
}

HostTensor HostTensor::copy_of(const TensorView& view) {
  HostTensor t = zeros(view.dtype, view.shape);
  if (!t.bytes.empty()) std::memcpy(t.bytes.data(), view.data, t.bytes.size());
  return t;
}

std::vector<std::int64_t> HostTensor::to_int64() const {
  if (dtype != DType::int64)
    throw InputError("expected int64 data, found " + std::string(dtype_name(dtype)) + " " +
                     shape_text(shape));
  return {as<std::int64_t>(), as<std::int64_t>() + numel()};
}

}  // namespace meshparity

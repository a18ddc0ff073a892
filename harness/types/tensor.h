// Plain tensors for everything that judges or stores numbers: C order, contiguous, little-endian, no
// LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "harness/types/error.h"

namespace meshparity {

enum class DType { float64, float32, float16, bfloat16, int64, int32, uint8, boolean };

std::size_t dtype_size(DType dtype);
std::string_view dtype_name(DType dtype);
// Throws InputError on an unknown name.
DType parse_dtype(std::string_view name);
bool is_floating(DType dtype);
// Unit roundoff (half an ulp of 1): 2^-53 for float64, 2^-24 float32, 2^-11 float16, 2^-8 bfloat16. 0 for
// integers.
double unit_roundoff(DType dtype);

using Shape = std::vector<std::int64_t>;
std::int64_t shape_numel(const Shape& shape);
std::string shape_text(const Shape& shape);  // "[2,3]"
// Multi-index of a flat index: "[17,402]".
std::string index_text(const Shape& shape, std::int64_t flat);

// A view of somebody else's contiguous tensor; the owner must outlive it.
struct TensorView {
  DType dtype = DType::float64;
  Shape shape;
  const std::byte* data = nullptr;

  std::int64_t numel() const { return shape_numel(shape); }
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * dtype_size(dtype); }
  // Unchecked typed access: T must be the C++ type of dtype.
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data);
  }
  // Element i as double, whatever the dtype (bfloat16 and float16 included).
  double at(std::int64_t i) const;
};

// An owning contiguous tensor.
struct HostTensor {
  DType dtype = DType::float64;
  Shape shape;
  std::vector<std::byte> bytes;

  static HostTensor zeros(DType dtype, Shape shape);
  static HostTensor copy_of(const TensorView& view);
  template <class T>
  static HostTensor from(DType dtype, Shape shape, const std::vector<T>& values) {
    HostTensor t = zeros(dtype, std::move(shape));
    if (values.size() * sizeof(T) != t.bytes.size())
      throw RunError(std::to_string(values.size()) + " values for a tensor " + shape_text(t.shape));
    if (!values.empty()) std::memcpy(t.bytes.data(), values.data(), t.bytes.size());
    return t;
  }
  static HostTensor from_int64(Shape shape, const std::vector<std::int64_t>& values) {
    return from(DType::int64, std::move(shape), values);
  }
  static HostTensor scalar(double value) { return from(DType::float64, {}, std::vector<double>{value}); }

  std::int64_t numel() const { return shape_numel(shape); }
  TensorView view() const { return {dtype, shape, bytes.data()}; }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(bytes.data());
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(bytes.data());
  }
  // All elements as T; throws InputError if dtype is not T's.
  std::vector<std::int64_t> to_int64() const;
};

}  // namespace meshparity

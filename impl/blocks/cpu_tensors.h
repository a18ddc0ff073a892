// From tensors to the plain pointers of the fused CPU kernels. Included by the wrappers only.
#pragma once

#include <ATen/ATen.h>

#include <initializer_list>

#include "impl/blocks/cpu_rows.h"

namespace meshparity::impl::cpu {

// Can the fused kernels take these?
inline bool fusable(std::initializer_list<at::Tensor> tensors) {
  const at::ScalarType type = tensors.begin()->scalar_type();
  if (type != at::kDouble && type != at::kFloat) return false;
  for (const auto& t : tensors)
    if (!t.device().is_cpu() || t.scalar_type() != type) return false;
  return true;
}

// Calls f with a value of the tensor's C++ type.
template <class F>
void with_type(const at::Tensor& t, F&& f) {
  if (t.scalar_type() == at::kDouble)
    f(double{});
  else
    f(float{});
}

// A tensor whose rows are contiguous: itself, or a copy.
inline at::Tensor dense_rows(const at::Tensor& t) {
  return t.dim() == 2 && (t.size(1) <= 1 || t.stride(1) == 1) ? t : t.contiguous();
}

// t must have contiguous rows.
template <class T>
In<T> in(const at::Tensor& t) {
  return {t.const_data_ptr<T>(), t.size(0), t.size(1), t.stride(0)};
}
template <class T>
Rows<T> out(const at::Tensor& t) {
  return {t.mutable_data_ptr<T>(), t.size(0), t.size(1), t.stride(0)};
}

inline at::Tensor empty_rows(const at::Tensor& like) {
  return at::empty(like.sizes(), like.options());
}

}  // namespace meshparity::impl::cpu

#include "impl/blocks/cpu_products.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace meshparity::impl::cpu {
namespace {

// Below this many multiplications the loops beat a call into BLAS (about 4 us through ATen).
constexpr std::int64_t kSmallProduct = 8192;

template <class T>
at::Tensor view_of(const T* data, std::int64_t rows, std::int64_t columns, std::int64_t stride, Op op) {
  const auto options = at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value);
  if (op == Op::transposed) return at::from_blob(const_cast<T*>(data), {rows, columns}, {1, stride}, options);
  return at::from_blob(const_cast<T*>(data), {rows, columns}, {stride, 1}, options);
}

}  // namespace

template <class T>
void product(Matrix<T> c, bool add, Matrix<const T> a, Op op_a, Matrix<const T> b, Op op_b, std::int64_t m,
             std::int64_t n, std::int64_t k) {
  if (m * n * k > kSmallProduct) {
    at::Tensor out = view_of<T>(c.data, m, n, c.stride, Op::plain);
    const at::Tensor left = view_of(a.data, m, k, a.stride, op_a),
                     right = view_of(b.data, k, n, b.stride, op_b);
    if (add)
      out.addmm_(left, right);
    else
      at::mm_out(out, left, right);
    return;
  }
  if (!add)
    for (std::int64_t i = 0; i < m; ++i) std::fill_n(c.data + i * c.stride, n, T(0));
  for (std::int64_t i = 0; i < m; ++i) {
    T* row = c.data + i * c.stride;
    if (op_b == Op::transposed && op_a == Op::plain) {
      for (std::int64_t j = 0; j < n; ++j) row[j] += dot(a.data + i * a.stride, b.data + j * b.stride, k);
      continue;
    }
    for (std::int64_t l = 0; l < k; ++l) {
      const T left = op_a == Op::plain ? a.data[i * a.stride + l] : a.data[l * a.stride + i];
      if (op_b == Op::plain)
        axpy(row, left, b.data + l * b.stride, n);
      else
        for (std::int64_t j = 0; j < n; ++j) row[j] += left * b.data[j * b.stride + l];
    }
  }
}

template void product<double>(Matrix<double>, bool, Matrix<const double>, Op, Matrix<const double>, Op,
                              std::int64_t, std::int64_t, std::int64_t);
template void product<float>(Matrix<float>, bool, Matrix<const float>, Op, Matrix<const float>, Op,
                             std::int64_t, std::int64_t, std::int64_t);

}  // namespace meshparity::impl::cpu

// Matrix products and dot products for the fused CPU primitives, on plain pointers. Small products, of which
// the models of a sweep are made, cost less here than one call into a library; large ones go to ATen's BLAS.
#pragma once

#include <cstdint>

namespace meshparity::impl::cpu {

// C [m, n] = op(A) op(B) + (add ? C : 0), op(A) [m, k], op(B) [k, n]; row-major with row strides. A
// transposed operand is stored as its transpose: A [k, m], B [n, k]. T is double or float; sums in T.
template <class T>
struct Matrix {
  T* data;
  std::int64_t stride;
};
enum class Op { plain, transposed };
template <class T>
void product(Matrix<T> c, bool add, Matrix<const T> a, Op op_a, Matrix<const T> b, Op op_b, std::int64_t m,
             std::int64_t n, std::int64_t k);

// Four partial sums, so that additions overlap; the order is fixed by n alone.
template <class T>
inline T dot(const T* a, const T* b, std::int64_t n) {
  T s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  std::int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    s0 += a[i] * b[i];
    s1 += a[i + 1] * b[i + 1];
    s2 += a[i + 2] * b[i + 2];
    s3 += a[i + 3] * b[i + 3];
  }
  for (; i < n; ++i) s0 += a[i] * b[i];
  return (s0 + s1) + (s2 + s3);
}

// y += a * x
template <class T>
inline void axpy(T* __restrict y, T a, const T* __restrict x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

}  // namespace meshparity::impl::cpu

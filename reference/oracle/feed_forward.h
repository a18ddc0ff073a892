// SwiGLU of one token. Source: qwen35.md 1.6.
#pragma once

#include "reference/oracle/activations.h"
#include "reference/oracle/dual.h"

namespace meshparity::oracle {

// x [D], gate and up [F, D], down [D, F] -> [D].
template <class Scalar>
Vector<Scalar> swiglu(const Vector<Scalar>& x, const Matrix<Scalar>& gate, const Matrix<Scalar>& up,
                      const Matrix<Scalar>& down) {
  const Vector<Scalar> gated = gate * x;
  Vector<Scalar> inner = up * x;
  for (Eigen::Index i = 0; i < inner.size(); ++i) inner[i] *= silu(gated[i]);
  return down * inner;
}

}  // namespace meshparity::oracle

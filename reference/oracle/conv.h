// Depthwise causal convolution and SiLU of one document. Source: qwen35.md 1.5, step 1.
#pragma once

#include "reference/oracle/activations.h"
#include "reference/oracle/dual.h"

namespace meshparity::oracle {

// Output at token t, channel c: silu(sum over age a of weight(c, taps - 1 - a) * u(t - a, c)), nothing before
// token 0. u [T, C], weight [C, taps] -> [T, C].
template <class Scalar>
Matrix<Scalar> causal_conv_silu(const Matrix<Scalar>& u, const Matrix<Scalar>& weight) {
  Matrix<Scalar> out(u.rows(), u.cols());
  for (Eigen::Index t = 0; t < u.rows(); ++t) {
    for (Eigen::Index c = 0; c < u.cols(); ++c) {
      Scalar sum = 0;
      for (Eigen::Index age = 0; age < weight.cols() && age <= t; ++age) {
        sum += weight(c, weight.cols() - 1 - age) * u(t - age, c);
      }
      out(t, c) = silu(sum);
    }
  }
  return out;
}

}  // namespace meshparity::oracle

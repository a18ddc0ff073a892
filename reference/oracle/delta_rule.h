// The gated delta rule of one head as a product of matrices, S <- e^g (I - beta k k^T) S + beta k v^T: the
// reference computes the residual instead. Source: qwen35.md 1.5, step 4.
#pragma once

#include <cmath>

#include "reference/oracle/activations.h"
#include "reference/oracle/dual.h"

namespace meshparity::oracle {

// q, k [T, K] (q already scaled), v [T, V], g, beta [T] -> [T, V].
template <class Scalar>
Matrix<Scalar> gated_delta_rule(const Matrix<Scalar>& q, const Matrix<Scalar>& k, const Matrix<Scalar>& v,
                                const Vector<Scalar>& g, const Vector<Scalar>& beta) {
  using std::exp;
  const Matrix<Scalar> identity = Matrix<Scalar>::Identity(k.cols(), k.cols());
  Matrix<Scalar> state = Matrix<Scalar>::Zero(k.cols(), v.cols());
  Matrix<Scalar> out(q.rows(), v.cols());
  for (Eigen::Index t = 0; t < q.rows(); ++t) {
    const Vector<Scalar> key = k.row(t).transpose();
    const Matrix<Scalar> transition = (identity - beta[t] * key * key.transpose()) * exp(g[t]);
    state = (transition * state + beta[t] * key * v.row(t)).eval();
    out.row(t) = q.row(t) * state;
  }
  return out;
}

// Log of a head's decay at one token.
template <class Scalar>
Scalar log_decay(const Scalar& a, const Scalar& a_log, const Scalar& dt_bias) {
  using std::exp;
  return -(exp(a_log) * softplus(a + dt_bias));
}

}  // namespace meshparity::oracle

// Causal softmax attention of one head of one document, query by query, with the log-sum-exp that blockwise
// attention merges by. Source: qwen35.md 1.3.
#pragma once

#include <cmath>

#include "reference/oracle/activations.h"
#include "reference/oracle/dual.h"

namespace meshparity::oracle {

template <class Scalar>
struct Attended {
  Matrix<Scalar> out;  // [T, d]
  Vector<Scalar> lse;  // [T] log of the sum of e^score over keys 0..t
};

// q, k, v [T, d]; score = q k / sqrt(d).
template <class Scalar>
Attended<Scalar> causal_attention(const Matrix<Scalar>& q, const Matrix<Scalar>& k, const Matrix<Scalar>& v) {
  using std::exp;
  Attended<Scalar> result{Matrix<Scalar>::Zero(q.rows(), v.cols()), Vector<Scalar>(q.rows())};
  const Scalar scale = 1 / std::sqrt(static_cast<double>(q.cols()));
  for (Eigen::Index t = 0; t < q.rows(); ++t) {
    const Vector<Scalar> scores = k.topRows(t + 1) * q.row(t).transpose() * scale;
    result.lse[t] = log_sum_exp(scores);
    for (Eigen::Index s = 0; s <= t; ++s) result.out.row(t) += v.row(s) * exp(scores[s] - result.lse[t]);
  }
  return result;
}

}  // namespace meshparity::oracle

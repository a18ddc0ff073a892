// The router's terms of the loss, row by row. Source: qwen35.md 1.6, design.md 5.
#pragma once

#include "reference/oracle/activations.h"
#include "reference/oracle/router.h"

namespace meshparity::oracle {

// rows: one router decision each, of every layer and token; columns: experts.
template <class Scalar>
Scalar load_balancing_loss(const Matrix<Scalar>& logits, std::int64_t experts_per_token) {
  using std::exp;
  std::vector<double> chosen(logits.cols(), 0);
  Vector<Scalar> probability = Vector<Scalar>::Zero(logits.cols());
  for (Eigen::Index row = 0; row < logits.rows(); ++row) {
    const Vector<Scalar> of_row = logits.row(row).transpose();
    for (const auto e : route(of_row, experts_per_token).experts) chosen[e] += 1;
    const Scalar lse = log_sum_exp(of_row);
    for (Eigen::Index e = 0; e < logits.cols(); ++e) probability[e] += exp(of_row[e] - lse);
  }
  const double rows = static_cast<double>(logits.rows());
  Scalar sum = 0;
  for (Eigen::Index e = 0; e < logits.cols(); ++e)
    sum += Scalar(chosen[e] / rows) * probability[e] / Scalar(rows);
  return sum * Scalar(static_cast<double>(logits.cols()));
}

template <class Scalar>
Scalar router_z_loss(const Matrix<Scalar>& logits) {
  Scalar sum = 0;
  for (Eigen::Index row = 0; row < logits.rows(); ++row) {
    const Scalar lse = log_sum_exp(Vector<Scalar>(logits.row(row).transpose()));
    sum += lse * lse;
  }
  return sum / Scalar(static_cast<double>(logits.rows()));
}

}  // namespace meshparity::oracle

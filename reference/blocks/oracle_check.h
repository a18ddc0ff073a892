// How the tests of this folder hold a block against the oracle: the same inputs through both, outputs
// compared, and the block's gradients compared with exact derivatives, one dual number per input element.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "reference/oracle/dual.h"
#include "reference/test_models.h"

namespace meshparity::reference {

// What a block must reach, and what a wrong one must miss by far.
constexpr double kForwardBound = 1e-13;
constexpr double kGradientBound = 1e-12;
constexpr double kFaultFloor = 1e-6;

// Relative L2 differences; infinity where shapes differ.
struct Agreement {
  double forward = 0;
  double gradient = 0;  // worst input, scale never below 1e-3 of all gradients' norm
};

// A tensor of N(0, scale^2), the same for the same name.
inline at::Tensor random_tensor(const std::string& name, const std::vector<std::int64_t>& shape,
                                double scale = 1) {
  return at::tensor(normals(name, shape_numel(shape), scale), at::kDouble).view(shape);
}

// All dimensions but the last become rows; a vector is one row.
inline oracle::Matrix<double> to_matrix(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.detach().to(at::kDouble).reshape({-1, tensor.size(-1)}).contiguous();
  return Eigen::Map<const oracle::Matrix<double>>(plain.const_data_ptr<double>(), plain.size(0),
                                                  plain.size(1));
}

inline double relative(const oracle::Matrix<double>& got, const oracle::Matrix<double>& want,
                       double least_scale) {
  if (got.rows() != want.rows() || got.cols() != want.cols()) return std::numeric_limits<double>::infinity();
  const double difference = (got - want).norm(), scale = std::max(want.norm(), least_scale);
  return difference == 0 ? 0 : difference / scale;
}

// `block` maps tensors to a tensor; `truth` maps vectors of matrices of any scalar to a matrix. Gradients are
// taken against a random cotangent, never of a plain sum.
template <class Block, class Truth>
Agreement agreement(const Block& block, const Truth& truth, const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> leaves;
  std::vector<oracle::Matrix<oracle::Dual>> duals;
  std::vector<oracle::Matrix<double>> plain;
  for (const at::Tensor& input : inputs) {
    leaves.push_back(input.detach().clone().requires_grad_(true));
    plain.push_back(to_matrix(input));
    duals.push_back(plain.back().template cast<oracle::Dual>());
  }
  const at::Tensor output = block(leaves);
  const at::Tensor cotangent = random_tensor("cotangent", output.sizes().vec());
  (output * cotangent).sum().backward();

  Agreement result;
  result.forward = relative(to_matrix(output), truth(plain), 0);
  const oracle::Matrix<double> weight = to_matrix(cotangent);
  std::vector<oracle::Matrix<double>> want;
  double squares = 0;
  for (auto& dual : duals) {
    oracle::Matrix<double> gradient(dual.rows(), dual.cols());
    for (Eigen::Index i = 0; i < dual.size(); ++i) {
      dual.data()[i].slope = 1;
      const oracle::Matrix<oracle::Dual> moved = truth(duals);
      dual.data()[i].slope = 0;
      double sum = 0;
      for (Eigen::Index j = 0; j < moved.size(); ++j) sum += moved.data()[j].slope * weight.data()[j];
      gradient.data()[i] = sum;
    }
    squares += gradient.squaredNorm();
    want.push_back(gradient);
  }
  for (std::size_t i = 0; i < want.size(); ++i) {
    const at::Tensor got = leaves[i].grad().defined() ? leaves[i].grad() : at::zeros_like(leaves[i]);
    const double error = relative(to_matrix(got), want[i], 1e-3 * std::sqrt(squares));
    if (!(error <= result.gradient)) result.gradient = error;
  }
  return result;
}

}  // namespace meshparity::reference

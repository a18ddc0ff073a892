// Proves the norms against the oracle, and that the check would see their usual mistakes.
#include "reference/blocks/rms_norm.h"

#include <catch2/catch.hpp>

#include "reference/blocks/oracle_check.h"
#include "reference/oracle/norms.h"

namespace meshparity::reference::rms_norm_test {
namespace {

constexpr double kEps = 1e-2;  // large, so that its place matters

const auto kTruth = []<class S>(const std::vector<oracle::Matrix<S>>& x) {
  oracle::Matrix<S> y = x[0];
  const oracle::Vector<S> weight = x[1].row(0).transpose();
  for (Eigen::Index t = 0; t < y.rows(); ++t) {
    y.row(t) = oracle::rms_norm<S>(x[0].row(t).transpose(), weight, kEps).transpose();
  }
  return y;
};

const auto kGatedTruth = []<class S>(const std::vector<oracle::Matrix<S>>& x) {
  oracle::Matrix<S> y = x[0];
  const oracle::Vector<S> weight = x[2].row(0).transpose();
  for (Eigen::Index t = 0; t < y.rows(); ++t) {
    y.row(t) =
        oracle::gated_rms_norm<S>(x[0].row(t).transpose(), x[1].row(t).transpose(), weight, kEps).transpose();
  }
  return y;
};

std::vector<at::Tensor> inputs() {
  return {random_tensor("x", {5, 7}), random_tensor("weight", {7}, 0.3)};
}
std::vector<at::Tensor> gated_inputs() {
  return {random_tensor("x", {3, 2, 4}), random_tensor("gate", {3, 2, 4}),
          1 + random_tensor("weight", {4}, 0.3)};
}

}  // namespace

TEST_CASE("the zero-centred norm is the oracle's") {
  const Agreement found = agreement([](auto& x) { return rms_norm(x[0], x[1], kEps); }, kTruth, inputs());

  CHECK(found.forward <= kForwardBound);
  CHECK(found.gradient <= kGradientBound);
}

TEST_CASE("the gated norm is the oracle's") {
  const Agreement found =
      agreement([](auto& x) { return gated_rms_norm(x[0], x[1], x[2], kEps); }, kGatedTruth, gated_inputs());

  CHECK(found.forward <= kForwardBound);
  CHECK(found.gradient <= kGradientBound);
}

TEST_CASE("wrong norms are seen") {
  const auto eps_outside = [](auto& x) {
    return x[0] / (x[0].square().mean(-1, true).sqrt() + kEps) * (1 + x[1]);
  };
  const auto plain_weight = [](auto& x) {
    return x[0] * at::rsqrt(x[0].square().mean(-1, true) + kEps) * x[1];
  };
  const auto frozen_statistics = [](auto& x) {
    return x[0] * at::rsqrt(x[0].detach().square().mean(-1, true) + kEps) * (1 + x[1]);
  };
  const auto gate_before_norm = [](auto& x) {
    const at::Tensor gated = x[0] * at::silu(x[1]);
    return gated * at::rsqrt(gated.square().mean(-1, true) + kEps) * x[2];
  };

  CHECK(agreement(eps_outside, kTruth, inputs()).forward > kFaultFloor);
  CHECK(agreement(plain_weight, kTruth, inputs()).forward > kFaultFloor);
  CHECK(agreement(frozen_statistics, kTruth, inputs()).forward <= kForwardBound);
  CHECK(agreement(frozen_statistics, kTruth, inputs()).gradient > kFaultFloor);
  CHECK(agreement(gate_before_norm, kGatedTruth, gated_inputs()).forward > kFaultFloor);
}

}  // namespace meshparity::reference::rms_norm_test

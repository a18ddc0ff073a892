// Proves the router's terms of the loss against the oracle: values, and gradients with exact derivatives.
#include "reference/blocks/router_loss.h"

#include <catch2/catch.hpp>

#include "reference/blocks/oracle_check.h"
#include "reference/oracle/router_loss.h"

namespace meshparity::reference::router_loss_test {
namespace {

constexpr std::int64_t kPerToken = 2;

template <class Scalar>
oracle::Matrix<Scalar> rows_of(const std::vector<oracle::Matrix<Scalar>>& layers) {
  oracle::Matrix<Scalar> rows(layers[0].rows() + layers[1].rows(), layers[0].cols());
  rows << layers[0], layers[1];
  return rows;
}

const auto kBalanceTruth = []<class S>(const std::vector<oracle::Matrix<S>>& layers) {
  oracle::Matrix<S> y(1, 1);
  y(0, 0) = oracle::load_balancing_loss<S>(rows_of(layers), kPerToken);
  return y;
};

const auto kZTruth = []<class S>(const std::vector<oracle::Matrix<S>>& layers) {
  oracle::Matrix<S> y(1, 1);
  y(0, 0) = oracle::router_z_loss<S>(rows_of(layers));
  return y;
};

// Two layers that prefer different experts.
std::vector<at::Tensor> inputs() {
  const at::Tensor tilt = at::tensor({2.0, 1.0, 0.0, -1.0, 0.5});
  return {random_tensor("layer 0", {7, 5}) + tilt, random_tensor("layer 1", {7, 5}) - tilt};
}

at::Tensor one(const at::Tensor& value) {
  return value.view({1, 1});
}

}  // namespace

TEST_CASE("the load-balancing loss is the oracle's") {
  const auto block = [](auto& x) { return one(load_balancing_loss(x, kPerToken)); };
  const Agreement found = agreement(block, kBalanceTruth, inputs());
  CHECK(found.forward <= kForwardBound);
  CHECK(found.gradient <= kGradientBound);

  // Even routing of every row gives k, whatever the number of layers.
  const at::Tensor even = at::zeros({4, 4});
  CHECK(load_balancing_loss({even.to(at::kDouble)}, 2).item<double>() == Approx(2).epsilon(1e-14));
}

TEST_CASE("the router's z loss is the oracle's") {
  const auto block = [](auto& x) { return one(router_z_loss(x)); };
  const Agreement found = agreement(block, kZTruth, inputs());
  CHECK(found.forward <= kForwardBound);
  CHECK(found.gradient <= kGradientBound);
}

TEST_CASE("wrong router losses are seen") {
  const auto error = [](const auto& wrong, const auto& truth) {
    return agreement(wrong, truth, inputs()).forward;
  };
  CHECK(error(
            [](auto& x) {
              return one(load_balancing_loss({x[0]}, kPerToken) + load_balancing_loss({x[1]}, kPerToken)) / 2;
            },
            kBalanceTruth) > kFaultFloor);
  CHECK(error([](auto& x) { return one(load_balancing_loss(x, 1)); }, kBalanceTruth) > kFaultFloor);
  // Softmax twice, as a library version had it.
  CHECK(error(
            [](auto& x) {
              return one(load_balancing_loss({at::softmax(x[0], -1), at::softmax(x[1], -1)}, kPerToken));
            },
            kBalanceTruth) > kFaultFloor);
  CHECK(error(
            [](auto& x) {
              return one(at::logsumexp(at::cat({x[0], x[1]}), {-1}).mean().square());
            },
            kZTruth) > kFaultFloor);
}

}  // namespace meshparity::reference::router_loss_test

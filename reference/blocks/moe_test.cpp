// Proves SwiGLU, the router and the expert loop against the oracle, idle experts and unequal routing
// included.
#include "reference/blocks/moe.h"

#include <catch2/catch.hpp>

#include "reference/blocks/feed_forward.h"
#include "reference/blocks/oracle_check.h"
#include "reference/oracle/feed_forward.h"
#include "reference/oracle/router.h"

namespace meshparity::reference::moe_test {
namespace {

constexpr std::int64_t kTokens = 6, kHidden = 4, kExperts = 5, kPerToken = 2, kWidth = 3, kShared = 2;

const auto kSwigluTruth = []<class S>(const std::vector<oracle::Matrix<S>>& x) {
  oracle::Matrix<S> y = x[0];
  for (Eigen::Index t = 0; t < y.rows(); ++t) {
    y.row(t) = oracle::swiglu<S>(x[0].row(t).transpose(), x[1], x[2], x[3]).transpose();
  }
  return y;
};

const auto kMoeTruth = []<class S>(const std::vector<oracle::Matrix<S>>& w) {
  oracle::Matrix<S> y(kTokens, kHidden);
  for (Eigen::Index t = 0; t < kTokens; ++t) {
    const oracle::Vector<S> x = w[0].row(t).transpose();
    const oracle::Route<S> chosen = oracle::route<S>(w[1] * x, kPerToken);
    oracle::Vector<S> sum = oracle::swiglu<S>(x, w[4], w[5], w[6]) * oracle::sigmoid<S>((w[7] * x)[0]);
    for (std::size_t i = 0; i < chosen.experts.size(); ++i) {
      const Eigen::Index e = chosen.experts[i];
      sum += oracle::swiglu<S>(x, w[2].middleRows(e * 2 * kWidth, kWidth),
                               w[2].middleRows(e * 2 * kWidth + kWidth, kWidth),
                               w[3].middleRows(e * kHidden, kHidden)) *
             chosen.weights[static_cast<Eigen::Index>(i)];
    }
    y.row(t) = sum.transpose();
  }
  return y;
};

// Expert 3 is never chosen: its row is tiny and two others are antipodal pairs.
std::vector<at::Tensor> inputs() {
  const at::Tensor pair = random_tensor("pair", {2, kHidden});
  const at::Tensor router = at::cat(
      {pair, -pair.narrow(0, 0, 1), random_tensor("idle", {1, kHidden}, 1e-3), -pair.narrow(0, 1, 1)});
  return {random_tensor("x", {kTokens, kHidden}),
          router,
          random_tensor("gate_up", {kExperts, 2 * kWidth, kHidden}),
          random_tensor("down", {kExperts, kHidden, kWidth}),
          random_tensor("shared_gate", {kShared, kHidden}),
          random_tensor("shared_up", {kShared, kHidden}),
          random_tensor("shared_down", {kHidden, kShared}),
          random_tensor("shared_expert_gate", {1, kHidden})};
}

at::Tensor block(const std::vector<at::Tensor>& x) {
  return moe(x[0], {x[1], x[2], x[3], x[4], x[5], x[6], x[7]}, kPerToken);
}

}  // namespace

TEST_CASE("SwiGLU is the oracle's") {
  const Agreement found = agreement([](auto& x) { return swiglu(x[0], x[1], x[2], x[3]); }, kSwigluTruth,
                                    {random_tensor("x", {3, 4}), random_tensor("gate", {5, 4}),
                                     random_tensor("up", {5, 4}), random_tensor("down", {4, 5})});

  CHECK(found.forward <= kForwardBound);
  CHECK(found.gradient <= kGradientBound);
}

TEST_CASE("the mixture of experts is the oracle's") {
  const Agreement found = agreement(block, kMoeTruth, inputs());

  CHECK(found.forward <= kForwardBound);
  CHECK(found.gradient <= kGradientBound);
}

TEST_CASE("an expert without a token has a gradient of exact zeros") {
  std::vector<at::Tensor> x = inputs();
  REQUIRE((route(x[0], x[1], kPerToken).experts == 3).sum().item<std::int64_t>() == 0);
  for (at::Tensor& leaf : x) leaf.requires_grad_(true);

  block(x).square().sum().backward();
  CHECK(x[2].grad()[3].abs().max().item<double>() == 0);
  CHECK(x[3].grad()[3].abs().max().item<double>() == 0);
  CHECK(x[2].grad()[0].abs().max().item<double>() > 0);
}

TEST_CASE("wrong mixtures are seen") {
  const auto error = [](const auto& wrong) { return agreement(wrong, kMoeTruth, inputs()).forward; };

  const auto gate_and_up_swapped = [](auto& x) {
    return block({x[0], x[1], x[2].roll({kWidth}, {1}), x[3], x[4], x[5], x[6], x[7]});
  };
  const auto one_expert_fewer = [](auto& x) {
    return moe(x[0], {x[1], x[2], x[3], x[4], x[5], x[6], x[7]}, 1);
  };
  const auto shared_gate_forgotten = [](auto& x) {
    return block({x[0], x[1], x[2], x[3], x[4], x[5], x[6], at::zeros_like(x[7])});
  };
  const auto not_renormalised = [](auto& x) {
    const at::Tensor chosen_share =
        std::get<0>(at::softmax(at::linear(x[0], x[1]), -1).topk(kPerToken, -1)).sum(-1, true);
    const at::Tensor shared = at::sigmoid(at::linear(x[0], x[7])) * swiglu(x[0], x[4], x[5], x[6]);
    return (block(x) - shared) * chosen_share + shared;
  };

  CHECK(error(gate_and_up_swapped) > kFaultFloor);
  CHECK(error(one_expert_fewer) > kFaultFloor);
  CHECK(error(shared_gate_forgotten) > kFaultFloor);
  CHECK(error(not_renormalised) > kFaultFloor);
}

}  // namespace meshparity::reference::moe_test

// Proves what surrounds the recurrence: convolution, l2 norm and decay. The whole mixer:
// reference/model_test.cpp.
#include "reference/blocks/gated_delta_net.h"

#include <catch2/catch.hpp>

#include "reference/blocks/oracle_check.h"
#include "reference/oracle/conv.h"
#include "reference/oracle/delta_rule.h"
#include "reference/oracle/norms.h"

namespace meshparity::reference::gated_delta_net_test {
namespace {

const auto kConvTruth = []<class S>(const std::vector<oracle::Matrix<S>>& x) {
  return oracle::causal_conv_silu<S>(x[0], x[1]);
};

const auto kL2Truth = []<class S>(const std::vector<oracle::Matrix<S>>& x) {
  oracle::Matrix<S> y = x[0];
  for (Eigen::Index t = 0; t < y.rows(); ++t)
    y.row(t) = oracle::l2_norm<S>(x[0].row(t).transpose()).transpose();
  return y;
};

const auto kDecayTruth = []<class S>(const std::vector<oracle::Matrix<S>>& x) {
  oracle::Matrix<S> y = x[0];
  for (Eigen::Index t = 0; t < y.rows(); ++t) {
    for (Eigen::Index h = 0; h < y.cols(); ++h)
      y(t, h) = oracle::log_decay(x[0](t, h), x[1](0, h), x[2](0, h));
  }
  return y;
};

// Shorter than, as long as and longer than the four taps.
std::vector<at::Tensor> conv_inputs(std::int64_t tokens) {
  return {random_tensor("u", {tokens, 3}), random_tensor("taps", {3, 1, 4})};
}

// Some sums above 20, where softplus is linear.
std::vector<at::Tensor> decay_inputs() {
  return {random_tensor("a", {4, 3}, 20), random_tensor("a_log", {3}), random_tensor("dt_bias", {3})};
}

}  // namespace

TEST_CASE("the convolution is the oracle's for documents of any length") {
  const std::int64_t tokens = GENERATE(1, 2, 4, 9);
  const Agreement found =
      agreement([](auto& x) { return causal_conv_silu(x[0], x[1]); }, kConvTruth, conv_inputs(tokens));

  INFO(tokens << " tokens");
  CHECK(found.forward <= kForwardBound);
  CHECK(found.gradient <= kGradientBound);
}

TEST_CASE("l2 norm and decay are the oracle's") {
  const Agreement l2 = agreement([](auto& x) { return l2_norm(x[0]); }, kL2Truth,
                                 {random_tensor("x", {5, 3}, 1e-3)});  // small, so that 1e-6 matters
  const Agreement decay =
      agreement([](auto& x) { return log_decay(x[0], x[1], x[2]); }, kDecayTruth, decay_inputs());

  CHECK(l2.forward <= kForwardBound);
  CHECK(l2.gradient <= kGradientBound);
  CHECK(decay.forward <= kForwardBound);
  CHECK(decay.gradient <= kGradientBound);
}

TEST_CASE("wrong convolutions, norms and decays are seen") {
  const auto taps_reversed = [](auto& x) { return causal_conv_silu(x[0], x[1].flip(2)); };
  const auto no_activation = [](auto& x) {
    return at::conv1d(x[0].t().unsqueeze(0), x[1], {}, 1, 3, 1, 3).squeeze(0).narrow(1, 0, x[0].size(0)).t();
  };
  const auto mean_of_squares = [](auto& x) { return x[0] * at::rsqrt(x[0].square().mean(-1, true) + 1e-6); };
  const auto bias_outside = [](auto& x) { return -x[1].exp() * (at::softplus(x[0], 1, 20) + x[2]); };

  CHECK(agreement(taps_reversed, kConvTruth, conv_inputs(9)).forward > kFaultFloor);
  CHECK(agreement(no_activation, kConvTruth, conv_inputs(9)).forward > kFaultFloor);
  CHECK(agreement(mean_of_squares, kL2Truth, {random_tensor("x", {5, 3})}).forward > kFaultFloor);
  CHECK(agreement(bias_outside, kDecayTruth, decay_inputs()).forward > kFaultFloor);
}

}  // namespace meshparity::reference::gated_delta_net_test

// Proves log-probabilities against the oracle and every policy's weights and denominators on a batch counted
// by hand.
#include "reference/blocks/loss.h"

#include <catch2/catch.hpp>

#include "harness/types/error.h"
#include "reference/blocks/oracle_check.h"
#include "reference/oracle/token_loss.h"

namespace meshparity::reference::loss_test {
namespace {

// Documents of 3, 1, 4 tokens; rows {0, 1}, {2}; each row a micro-batch. Valid labels: 2, 0, 2 (one masked).
Batch counted_batch() {
  Batch batch = make_batch(tiny_dense(), {3, 1, 4}, {2, 1}, {1, 1});
  batch.labels[5] = kIgnoreLabel;
  return batch;
}

std::vector<double> values(const at::Tensor& t) {
  const at::Tensor flat = t.reshape({-1}).contiguous();
  return {flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel()};
}

}  // namespace

TEST_CASE("log-probabilities are the oracle's, 0 where ignored") {
  const std::vector<std::int64_t> labels = {2, kIgnoreLabel, 0, 4};
  const auto truth = [&]<class S>(const std::vector<oracle::Matrix<S>>& x) {
    oracle::Matrix<S> y = oracle::Matrix<S>::Zero(1, x[0].rows());
    for (Eigen::Index t = 0; t < x[0].rows(); ++t) {
      if (labels[t] != kIgnoreLabel) y(0, t) = oracle::label_logprob<S>(x[0].row(t).transpose(), labels[t]);
    }
    return y;
  };
  const auto block = [&](auto& x) { return label_logprobs(x[0], at::tensor(labels, at::kLong)); };

  const Agreement found = agreement(block, truth, {random_tensor("logits", {4, 5}, 3)});
  CHECK(found.forward <= kForwardBound);
  CHECK(found.gradient <= kGradientBound);

  const auto ignored_counted = [&](auto& x) {
    return label_logprobs(x[0], at::tensor(labels, at::kLong).clamp_min(0));
  };
  CHECK(agreement(ignored_counted, truth, {random_tensor("logits", {4, 5}, 3)}).forward > kFaultFloor);
}

TEST_CASE("policy gradients are the oracle's, clipped on both sides") {
  // Ratios: below, in and above the clip, with either sign of the advantage.
  const std::vector<double> advantages = {1, -1, 0.5, -0.5, 2, -2}, old = {0, 0, 0, 0, 0, 0};
  const at::Tensor logprobs = at::tensor({-0.5, -0.5, 0.1, -0.1, 0.4, 0.4}, at::kDouble).view({1, 6});
  const auto truth = [&]<class S>(const std::vector<oracle::Matrix<S>>& x) {
    oracle::Matrix<S> y(1, 6);
    for (Eigen::Index t = 0; t < 6; ++t)
      y(0, t) = -oracle::clipped_objective<S>(x[0](0, t), advantages[t], old[t]);
    return y;
  };
  const auto block = [&](auto& x) {
    return policy_gradient(x[0], at::tensor(advantages, at::kDouble), at::tensor(old, at::kDouble));
  };
  const Agreement found = agreement(block, truth, {logprobs});
  CHECK(found.forward <= kForwardBound);
  CHECK(found.gradient <= kGradientBound);
  at::Tensor leaf = logprobs.clone().requires_grad_(true);
  std::vector<at::Tensor> inputs = {leaf};
  block(inputs).sum().backward();
  const std::vector<double> gradient = values(leaf.grad());
  CHECK(gradient[1] == 0);  // held below
  CHECK(gradient[4] == 0);  // held above
  for (const int free : {0, 2, 3, 5}) CHECK(gradient[free] != 0);

  const auto unclipped = [&](auto& x) { return -x[0].exp() * at::tensor(advantages, at::kDouble); };
  CHECK(agreement(unclipped, truth, {logprobs}).forward > kFaultFloor);
}

TEST_CASE("policies weigh tokens as they say") {
  const Batch batch = counted_batch();
  TrainSpec train;
  train.num_tokens = 16;
  const auto weights = [&](const char* policy) { return values(loss_weights(policy, batch, train)); };
  const auto denominators = [&](const char* policy) {
    return values(loss_denominators(policy, batch, train));
  };
  using Numbers = std::vector<double>;

  CHECK(weights("token_mean") == Numbers{0.25, 0.25, 0, 0, 0.25, 0, 0.25, 0});
  CHECK(weights("sum") == Numbers{1, 1, 0, 0, 1, 0, 1, 0});
  CHECK(weights("sequence_mean") == Numbers{0.25, 0.25, 0, 0, 0.25, 0, 0.25, 0});
  CHECK(weights("micro_batch_mean") == Numbers{0.25, 0.25, 0, 0, 0.25, 0, 0.25, 0});
  CHECK(weights("num_tokens") == Numbers{0.0625, 0.0625, 0, 0, 0.0625, 0, 0.0625, 0});
  CHECK(denominators("token_mean") == Numbers{4});
  CHECK(denominators("sum") == Numbers{1});
  CHECK(denominators("sequence_mean") == Numbers{2, 0, 2});
  CHECK(denominators("micro_batch_mean") == Numbers{2, 2});
  CHECK(denominators("num_tokens") == Numbers{16});
  CHECK(denominators("policy_gradient") == Numbers{4});
  CHECK(denominators("lm_z") == Numbers{4});
  // Two routers that decide on 4 tokens in each micro-batch.
  CHECK(values(loss_denominators("aux", batch, train, 2)) == Numbers{8, 8});
  CHECK(values(loss_denominators("router_z", batch, train, 2)) == Numbers{8, 8});
  CHECK(loss_denominators("token_mean", batch, train).dim() == 0);
  CHECK(loss_denominators("sequence_mean", batch, train).dim() == 1);
  CHECK_THROWS_AS(loss_weights("mean_of_means", batch, train), InputError);
}

TEST_CASE("means of unequal parts are not the mean of all") {
  // Documents of 5 and 2 tokens: 4 and 1 valid labels; their rows are micro-batches.
  const Batch batch = make_batch(tiny_dense(), {5, 2}, {1, 1}, {1, 1});

  const std::vector<double> want = {0.125, 0.125, 0.125, 0.125, 0, 0.5, 0};
  CHECK(values(loss_weights("sequence_mean", batch, {})) == want);
  CHECK(values(loss_weights("micro_batch_mean", batch, {})) == want);
  CHECK(values(loss_weights("token_mean", batch, {}))[0] == 0.2);
}

TEST_CASE("without a valid label every weight is zero") {
  const Batch batch = make_batch(tiny_dense(), {1, 1}, {2}, {1});

  for (const char* policy : kLossPolicies)
    CHECK(values(loss_weights(policy, batch, {})) == std::vector<double>{0, 0});
}

}  // namespace meshparity::reference::loss_test

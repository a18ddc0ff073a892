// Proves the delta rule and its hand-written backward against the oracle, which knows no backward.
#include "reference/blocks/delta_rule.h"

#include <ATen/Parallel.h>

#include <catch2/catch.hpp>

#include "reference/blocks/gated_delta_net.h"
#include "reference/blocks/oracle_check.h"
#include "reference/oracle/delta_rule.h"

namespace meshparity::reference::delta_rule_test {
namespace {

constexpr std::int64_t kHeads = 2, kKey = 3, kValue = 2;

const auto kTruth = []<class S>(const std::vector<oracle::Matrix<S>>& x) {
  const Eigen::Index tokens = x[3].rows();
  oracle::Matrix<S> y(tokens * kHeads, kValue);
  for (Eigen::Index h = 0; h < kHeads; ++h) {
    const auto head = [&](const oracle::Matrix<S>& all) {
      oracle::Matrix<S> one(tokens, all.cols());
      for (Eigen::Index t = 0; t < tokens; ++t) one.row(t) = all.row(t * kHeads + h);
      return one;
    };
    const auto out =
        oracle::gated_delta_rule<S>(head(x[0]), head(x[1]), head(x[2]), x[3].col(h), x[4].col(h));
    for (Eigen::Index t = 0; t < tokens; ++t) y.row(t * kHeads + h) = out.row(t);
  }
  return y;
};

// Decays from 0.05 to 0.999 and beta over (0, 1), as in a model.
std::vector<at::Tensor> inputs(std::int64_t tokens) {
  return {random_tensor("q", {tokens, kHeads, kKey}), l2_norm(random_tensor("k", {tokens, kHeads, kKey})),
          random_tensor("v", {tokens, kHeads, kValue}),
          -random_tensor("g", {tokens, kHeads}, 2).exp().clamp(1e-3, 3),
          at::sigmoid(random_tensor("beta", {tokens, kHeads}))};
}

const auto kBlock = [](auto& x) { return gated_delta_rule(x[0], x[1], x[2], x[3], x[4]); };

// The recurrence under autograd, with one thing wrong; or right, to show that it is the thing that is seen.
at::Tensor variant(const std::vector<at::Tensor>& x, bool decay_first, bool write_before_read, bool reset) {
  at::Tensor state = at::zeros({kHeads, kKey, kValue}, at::kDouble);
  std::vector<at::Tensor> out;
  for (std::int64_t t = 0; t < x[0].size(0); ++t) {
    if (reset && t == 2) state = at::zeros_like(state);
    const at::Tensor decayed = state * x[3][t].exp().view({kHeads, 1, 1});
    const at::Tensor seen = ((decay_first ? decayed : state) * x[1][t].unsqueeze(2)).sum(1);
    const at::Tensor before = state;
    state = decayed + x[1][t].unsqueeze(2) * (x[4][t].unsqueeze(1) * (x[2][t] - seen)).unsqueeze(1);
    out.push_back(((write_before_read ? state : before) * x[0][t].unsqueeze(2)).sum(1));
  }
  return at::stack(out);
}

}  // namespace

TEST_CASE("the delta rule and its gradients are the oracle's") {
  const std::int64_t tokens = GENERATE(1, 2, 5);
  const Agreement found = agreement(kBlock, kTruth, inputs(tokens));

  INFO(tokens << " tokens");
  CHECK(found.forward <= kForwardBound);
  CHECK(found.gradient <= kGradientBound);
}

TEST_CASE("the delta rule holds across kept states") {
  // 64 tokens end exactly on a kept state, 65 and 131 beyond one and two.
  const std::int64_t tokens = GENERATE(64, 65, 131);
  const std::vector<at::Tensor> values = inputs(tokens);
  const at::Tensor cotangent = random_tensor("cotangent", {tokens, kHeads, kValue});
  const auto gradients = [&](const auto& rule) {
    std::vector<at::Tensor> leaves;
    for (const at::Tensor& value : values) leaves.push_back(value.detach().clone().requires_grad_(true));
    (rule(leaves) * cotangent).sum().backward();
    return leaves;
  };
  const std::vector<at::Tensor> got = gradients(kBlock);
  const std::vector<at::Tensor> want = gradients([](auto& x) { return variant(x, true, true, false); });

  INFO(tokens << " tokens");
  for (std::size_t i = 0; i < got.size(); ++i) {
    CHECK((got[i].grad() - want[i].grad()).norm().item<double>() <=
          kGradientBound * want[i].grad().norm().item<double>());
  }
}

TEST_CASE("wide heads, computed in groups by several threads, are those of one head alone") {
  // 96 x 128 numbers a state: at most two heads at a time.
  constexpr std::int64_t kTokens = 70, kWideHeads = 5, kWideKey = 96, kWideValue = 128;
  const std::vector<at::Tensor> all = {random_tensor("q", {kTokens, kWideHeads, kWideKey}),
                                       l2_norm(random_tensor("k", {kTokens, kWideHeads, kWideKey})),
                                       random_tensor("v", {kTokens, kWideHeads, kWideValue}),
                                       -random_tensor("g", {kTokens, kWideHeads}, 2).exp().clamp(1e-3, 3),
                                       at::sigmoid(random_tensor("beta", {kTokens, kWideHeads}))};
  const at::Tensor cotangent = random_tensor("cotangent", {kTokens, kWideHeads, kWideValue});
  const auto run = [&](std::int64_t first, std::int64_t heads) {
    std::vector<at::Tensor> leaves;
    for (const at::Tensor& value : all)
      leaves.push_back(value.narrow(1, first, heads).detach().clone().requires_grad_(true));
    const at::Tensor o = kBlock(leaves);
    (o * cotangent.narrow(1, first, heads)).sum().backward();
    std::vector<at::Tensor> out = {o.detach()};
    for (const at::Tensor& leaf : leaves) out.push_back(leaf.grad());
    return out;
  };
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  const std::vector<at::Tensor> together = run(0, kWideHeads);
  at::set_num_threads(threads);
  for (std::int64_t h = 0; h < kWideHeads; ++h) {
    const std::vector<at::Tensor> alone = run(h, 1);
    for (std::size_t i = 0; i < alone.size(); ++i)
      CHECK((together[i].narrow(1, h, 1) - alone[i]).norm().item<double>() <=
            kForwardBound * alone[i].norm().item<double>());
  }
}

TEST_CASE("wrong recurrences are seen") {
  const auto error = [](bool decay_first, bool write_before_read, bool reset) {
    return agreement([&](auto& x) { return variant(x, decay_first, write_before_read, reset); }, kTruth,
                     inputs(5));
  };

  CHECK(error(true, true, false).forward <= kForwardBound);
  CHECK(error(true, true, false).gradient <= kGradientBound);
  CHECK(error(false, true, false).forward > kFaultFloor);
  CHECK(error(true, false, false).forward > kFaultFloor);
  CHECK(error(true, true, true).forward > kFaultFloor);
}

TEST_CASE("a decay without gradient is seen") {
  const auto frozen = [](auto& x) { return gated_delta_rule(x[0], x[1], x[2], x[3].detach(), x[4]); };

  const Agreement found = agreement(frozen, kTruth, inputs(5));
  CHECK(found.forward <= kForwardBound);
  CHECK(found.gradient > kFaultFloor);
}

}  // namespace meshparity::reference::delta_rule_test

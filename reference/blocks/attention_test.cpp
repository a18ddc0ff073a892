// Proves causal grouped-query attention against the oracle; the whole mixer is proven in
// reference/model_test.cpp.
#include "reference/blocks/attention.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "reference/blocks/oracle_check.h"
#include "reference/oracle/attention.h"

namespace meshparity::reference::attention_test {
namespace {

constexpr std::int64_t kHeads = 4, kKvHeads = 2, kWidth = 3;

const auto kTruth = []<class S>(const std::vector<oracle::Matrix<S>>& x) {
  const Eigen::Index tokens = x[0].rows() / kHeads;
  oracle::Matrix<S> y(tokens * kHeads, kWidth);
  const auto head = [&](const oracle::Matrix<S>& all, Eigen::Index heads, Eigen::Index h) {
    oracle::Matrix<S> one(tokens, kWidth);
    for (Eigen::Index t = 0; t < tokens; ++t) one.row(t) = all.row(t * heads + h);
    return one;
  };
  for (Eigen::Index h = 0; h < kHeads; ++h) {
    const Eigen::Index kv = h / (kHeads / kKvHeads);
    const auto out = oracle::causal_attention<S>(head(x[0], kHeads, h), head(x[1], kKvHeads, kv),
                                                 head(x[2], kKvHeads, kv));
    for (Eigen::Index t = 0; t < tokens; ++t) y.row(t * kHeads + h) = out.out.row(t);
  }
  return y;
};

std::vector<at::Tensor> inputs(std::int64_t tokens) {
  return {random_tensor("q", {tokens, kHeads, kWidth}), random_tensor("k", {tokens, kKvHeads, kWidth}),
          random_tensor("v", {tokens, kKvHeads, kWidth})};
}

// Attention with one thing wrong.
at::Tensor variant(const std::vector<at::Tensor>& x, bool right_heads, double scale, int first_masked) {
  const std::int64_t tokens = x[0].size(0), group = kHeads / kKvHeads;
  const auto widened = [&](const at::Tensor& t) {
    return (right_heads ? t.repeat_interleave(group, 1) : t.repeat({1, group, 1})).transpose(0, 1);
  };
  const at::Tensor mask = at::ones({tokens, tokens}, at::kBool).triu(first_masked);
  const at::Tensor scores = at::matmul(x[0].transpose(0, 1), widened(x[1]).transpose(1, 2)) * scale;
  return at::matmul(at::softmax(scores.masked_fill(mask, -1e300), -1), widened(x[2])).transpose(0, 1);
}

}  // namespace

TEST_CASE("causal attention is the oracle's") {
  const std::int64_t tokens = GENERATE(1, 2, 7);
  const Agreement found =
      agreement([](auto& x) { return causal_attention(x[0], x[1], x[2]); }, kTruth, inputs(tokens));

  INFO(tokens << " tokens");
  CHECK(found.forward <= kForwardBound);
  CHECK(found.gradient <= kGradientBound);
}

TEST_CASE("wrong attention is seen") {
  const double scale = 1 / std::sqrt(static_cast<double>(kWidth));
  const auto forward = [&](bool right_heads, double s, int first_masked) {
    return agreement([&](auto& x) { return variant(x, right_heads, s, first_masked); }, kTruth, inputs(5))
        .forward;
  };

  CHECK(forward(true, scale, 1) <= kForwardBound);
  CHECK(forward(false, scale, 1) > kFaultFloor);  // key-value head by modulo
  CHECK(forward(true, 1.0, 1) > kFaultFloor);     // scale forgotten
  CHECK(forward(true, scale, 2) > kFaultFloor);   // one token of the future seen
}

}  // namespace meshparity::reference::attention_test

// Parts of attention, merged, equal attention over all keys at once; so do their gradients. A query without a
// key, and scores so far apart that exp of their difference overflows, are no exceptions.
#include "impl/parallel/partial_attention.h"

#include <ATen/CPUGeneratorImpl.h>

#include <catch2/catch.hpp>
#include <limits>

namespace meshparity::impl::partial_attention_test {
namespace {

struct Inputs {
  at::Tensor q, k, v, bias, dout;
};

// Two key-value heads with three query heads each, 5 queries, 7 keys, causal from the right.
Inputs inputs(double scale) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(3);
  const auto draw = [&](at::IntArrayRef shape) { return at::randn(shape, generator, at::kDouble); };
  Inputs in{draw({2, 3, 5, 4}).mul_(scale), draw({2, 1, 7, 4}), draw({2, 1, 7, 4}),
            at::zeros({5, 7}, at::kDouble), draw({2, 3, 5, 4})};
  for (std::int64_t i = 0; i < 5; ++i)
    for (std::int64_t j = i + 3; j < 7; ++j) in.bias[i][j] = -std::numeric_limits<double>::infinity();
  return in;
}

// Keys [begin, end) of the inputs.
Inputs part_of(const Inputs& in, std::int64_t begin, std::int64_t end) {
  return {in.q, in.k.slice(2, begin, end), in.v.slice(2, begin, end), in.bias.slice(1, begin, end), in.dout};
}

PartialAttention attend(const Inputs& in) {
  return partial_attention(in.q, in.k, in.v, in.bias);
}

double worst(const at::Tensor& got, const at::Tensor& want) {
  return (got - want).abs().max().item<double>();
}

}  // namespace

TEST_CASE("merged parts of attention equal attention over all keys") {
  const double scale = GENERATE(1.0, 2000.0);
  const Inputs in = inputs(scale);
  const at::Tensor scores = at::matmul(in.q, in.k.transpose(2, 3)) + in.bias;
  const at::Tensor want = at::matmul(at::softmax(scores, 3), in.v);
  const PartialAttention first = attend(part_of(in, 0, 3)), last = attend(part_of(in, 3, 7));
  // The first query sees none of the last keys.
  CHECK(last.o.select(2, 0).eq(0).all().item<bool>());
  CHECK(last.lse.select(2, 0).isneginf().all().item<bool>());
  const PartialAttention merged = merge_attention(first, last);
  // A score is off by some roundings of its size, a weight relatively by as much, a sum by a few more.
  const double largest = at::matmul(in.q, in.k.transpose(2, 3)).abs().max().item<double>();
  const double rounding = 4 * 0x1p-53 * (largest + 8);
  CHECK(worst(merged.o, want) <= rounding * in.v.abs().max().item<double>());
  CHECK(worst(merged.lse, at::logsumexp(scores, {3})) <= rounding);
  if (scale > 1) CHECK((last.lse - first.lse).max().item<double>() > 710);  // beyond exp in float64
}

TEST_CASE("gradients of the parts add up to those of attention over all keys") {
  const Inputs in = inputs(1);
  const auto leaf = [](const at::Tensor& x) { return x.clone().requires_grad_(true); };
  const at::Tensor q = leaf(in.q), k = leaf(in.k), v = leaf(in.v);
  at::matmul(at::softmax(at::matmul(q, k.transpose(2, 3)) + in.bias, 3), v).backward(in.dout);
  const PartialAttention whole = attend(in);
  at::Tensor dq = at::zeros_like(in.q);
  for (const auto& [begin, end] : {std::pair<std::int64_t, std::int64_t>{0, 3}, {3, 7}}) {
    const Inputs part = part_of(in, begin, end);
    const Tensors grads = partial_attention_backward(part.q, part.k, part.v, part.bias, whole, in.dout);
    dq += grads[0];
    CHECK(worst(grads[1], k.grad().slice(2, begin, end)) <= 1e-14);
    CHECK(worst(grads[2], v.grad().slice(2, begin, end)) <= 1e-14);
  }
  CHECK(worst(dq, q.grad()) <= 1e-14);
}

}  // namespace meshparity::impl::partial_attention_test

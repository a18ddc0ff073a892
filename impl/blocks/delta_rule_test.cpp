// The chunked delta rule against the token recurrence written here, and its backward against differences.
#include "impl/blocks/delta_rule.h"

#include <ATen/CPUGeneratorImpl.h>

#include <catch2/catch.hpp>

#include "impl/blocks/cpu_primitives.h"
#include "impl/blocks/gradient_check.h"

namespace meshparity::impl::delta_rule_test {
namespace {

struct Case {
  std::vector<std::int64_t> lengths;
  std::int64_t key_heads, value_heads, key_dim, value_dim;
};

ModelConfig small_config() {
  ModelConfig c;
  c.head_dim = 4, c.rotary_dim = 2, c.mrope_section = {1, 0, 0}, c.linear_conv_kernel_dim = 4;
  return c;
}

PackedTokens packed(const std::vector<std::int64_t>& lengths, std::int64_t chunk) {
  std::vector<std::int64_t> documents, positions;
  for (std::size_t d = 0; d < lengths.size(); ++d)
    for (std::int64_t i = 0; i < lengths[d]; ++i) documents.push_back(static_cast<std::int64_t>(d) * 3 + 1);
  positions.assign(3 * documents.size(), 0);
  PackingOptions options;
  options.chunk_length = chunk;
  return pack_tokens(documents, positions, small_config(), options);
}

std::vector<at::Tensor> random_inputs(const Case& c, std::int64_t seed) {
  std::int64_t n = 0;
  for (auto l : c.lengths) n += l;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const auto draw = [&](at::IntArrayRef shape) { return at::randn(shape, generator, at::kDouble); };
  at::Tensor qk = draw({n, 2 * c.key_heads, c.key_dim});
  qk = qk / qk.norm(2, {2}, true);
  // Decays from almost none to almost total.
  const at::Tensor g = draw({n, c.value_heads}).mul_(1.5).sub_(1).exp_().neg_();
  return {qk.view({n, 2 * c.key_heads * c.key_dim}), draw({n, c.value_heads * c.value_dim}), g,
          at::sigmoid(draw({n, c.value_heads}))};
}

// S <- a (I - b k k^T) S + b k v^T, token by token, S = 0 at every document's start.
at::Tensor recurrence(const Case& c, const std::vector<at::Tensor>& in) {
  const std::int64_t n = in[0].size(0), k = c.key_dim, v = c.value_dim, r = c.value_heads / c.key_heads;
  const at::Tensor out = at::zeros({n, c.value_heads, v}, at::kDouble);
  const auto qk = in[0].accessor<double, 2>(), values = in[1].accessor<double, 2>(),
             g = in[2].accessor<double, 2>(), beta = in[3].accessor<double, 2>();
  auto o = out.accessor<double, 3>();
  for (std::int64_t h = 0; h < c.value_heads; ++h) {
    std::int64_t t = 0;
    const std::int64_t q0 = (h / r) * k, k0 = (c.key_heads + h / r) * k;
    for (const auto length : c.lengths) {
      std::vector<double> state(k * v, 0.0);
      for (std::int64_t i = 0; i < length; ++i, ++t)
        for (std::int64_t y = 0; y < v; ++y) {
          double seen = 0;
          for (std::int64_t x = 0; x < k; ++x) seen += std::exp(g[t][h]) * state[x * v + y] * qk[t][k0 + x];
          const double write = beta[t][h] * (values[t][h * v + y] - seen);
          double read = 0;
          for (std::int64_t x = 0; x < k; ++x) {
            double& s = state[x * v + y];
            s = std::exp(g[t][h]) * s + write * qk[t][k0 + x];
            read += s * qk[t][q0 + x];
          }
          o[t][h][y] = read / std::sqrt(static_cast<double>(k));
        }
    }
  }
  return out.view({n, c.value_heads * v});
}

// The ATen version works on chunks of the stream, the fused one on pieces of documents.
enum class Version { aten, fused };

at::Tensor chunked(Version version, const Case& c, const std::vector<at::Tensor>& in, std::int64_t chunk) {
  const auto f = version == Version::aten ? delta_rule : cpu::delta_rule;
  return f(in[0], in[1], in[2], in[3], packed(c.lengths, chunk), c.key_dim);
}

}  // namespace

TEST_CASE("the chunked delta rule equals the token recurrence for any chunk length and any documents") {
  const Version version = GENERATE(Version::aten, Version::fused);
  const std::vector<Case> cases = {{{13}, 1, 1, 3, 2},
                                   {{1}, 2, 4, 3, 2},
                                   {{5, 1, 9, 2}, 2, 6, 4, 3},
                                   {{1, 1, 1, 1, 1}, 1, 2, 2, 2},
                                   {{7, 16, 3}, 2, 2, 6, 4}};
  for (const auto& c : cases)
    for (const std::int64_t chunk : {1, 2, 3, 4, 7, 8, 23, 64}) {
      const auto in = random_inputs(c, 5);
      const at::Tensor got = chunked(version, c, in, chunk), want = recurrence(c, in);
      CAPTURE(c.lengths.size(), chunk);
      CHECK((got - want).abs().max().item<double>() <= 1e-13);
    }
}

TEST_CASE("the delta rule's backward agrees with central differences across documents and chunks") {
  const Version version = GENERATE(Version::aten, Version::fused);
  for (const std::int64_t chunk : {1, 3, 4, 64})
    for (const Case& c : {Case{{5, 1, 4}, 1, 3, 3, 2}, Case{{9}, 2, 2, 2, 3}}) {
      CAPTURE(chunk);
      CHECK(gradient_error([&](const auto& in) { return Tensors{chunked(version, c, in, chunk)}; },
                           random_inputs(c, 6)) <= 2e-9);
    }
}

TEST_CASE("the delta rule's backward does not depend on the chunk length") {
  const Version version = GENERATE(Version::aten, Version::fused);
  const Case c{{11, 1, 20, 3}, 2, 6, 4, 3};
  std::vector<at::Tensor> want;
  for (const std::int64_t chunk : {35, 1, 6, 16}) {
    auto in = random_inputs(c, 7);
    for (auto& x : in) x = x.clone().requires_grad_(true);
    torch::autograd::backward({chunked(version, c, in, chunk).square().sum()}, {});
    for (std::size_t i = 0; i < in.size(); ++i) {
      if (want.size() < in.size())
        want.push_back(in[i].grad());
      else
        CHECK((in[i].grad() - want[i]).norm().item<double>() <= 1e-12 * want[i].norm().item<double>());
    }
  }
}

TEST_CASE("no tokens give no output and zero-sized gradients") {
  const Version version = GENERATE(Version::aten, Version::fused);
  const Case c{{}, 1, 2, 3, 2};
  auto in = random_inputs(c, 8);
  for (auto& x : in) x = x.clone().requires_grad_(true);
  const at::Tensor out = chunked(version, c, in, 64);
  CHECK(out.sizes() == at::IntArrayRef({0, 4}));
  torch::autograd::backward({out}, {at::zeros({0, 4}, at::kDouble)});
  for (const auto& x : in) CHECK(x.grad().sizes() == x.sizes());
}

TEST_CASE("a document without gradient gets gradients of exactly zero, whatever follows it") {
  const Version version = GENERATE(Version::aten, Version::fused);
  const Case c{{4, 3, 9}, 1, 2, 3, 2};
  auto in = random_inputs(c, 10);
  for (auto& x : in) x = x.clone().requires_grad_(true);
  const at::Tensor out = chunked(version, c, in, 5);
  at::Tensor weight = at::ones_like(out).detach();
  weight.slice(0, 4, 7).zero_();
  torch::autograd::backward({out}, {weight});
  for (const auto& x : in) CHECK(x.grad().slice(0, 4, 7).eq(0).all().item<bool>());
}

TEST_CASE("decays far below the smallest double neither overflow nor make NaN") {
  const Version version = GENERATE(Version::aten, Version::fused);
  const Case c{{20, 6}, 1, 2, 3, 2};
  auto in = random_inputs(c, 9);
  in[2].fill_(-400);
  const at::Tensor got = chunked(version, c, in, 64);
  CHECK((got - recurrence(c, in)).abs().max().item<double>() <= 1e-14);
}

TEST_CASE("the gates of the delta rule and their backward") {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(3);
  const auto draw = [&](at::IntArrayRef shape) { return at::randn(shape, generator, at::kDouble); };
  at::Tensor a = draw({6, 3});
  a[0][0] = 30;  // softplus is linear above 20
  const auto gate = GENERATE(false, true) ? cpu::delta_gates : delta_gates;
  const Tensors gates = gate(a, draw({6, 3}), draw({3}), draw({3}));
  CHECK(gates[0].lt(0).all().item<bool>());
  CHECK(gradient_error([&](const auto& in) { return gate(in[0], in[1], in[2], in[3]); },
                       {a, draw({6, 3}), draw({3}), draw({3})}) <= 1e-8);
}

}  // namespace meshparity::impl::delta_rule_test

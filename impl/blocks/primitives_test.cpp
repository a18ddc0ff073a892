// Every primitive, in its ATen and its fused version: values against a plain formula where it is short,
// backward against central differences, and packing against running each document alone.
#include "impl/blocks/primitives.h"

#include <ATen/CPUGeneratorImpl.h>

#include <catch2/catch.hpp>

#include "harness/types/cut.h"
#include "impl/blocks/gradient_check.h"

namespace meshparity::impl::primitives_test {
namespace {

constexpr double kGradient = 1e-8;

struct Draw {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(17);
  at::Tensor operator()(at::IntArrayRef shape) { return at::randn(shape, generator, at::kDouble); }
};

ModelConfig small_config() {
  ModelConfig c;
  c.head_dim = 6, c.rotary_dim = 4, c.mrope_section = {1, 1, 0}, c.rope_theta = 100,
  c.linear_conv_kernel_dim = 4;
  return c;
}

PackedTokens packed(const std::vector<std::int64_t>& lengths, std::int64_t attention_block = 512) {
  std::vector<std::int64_t> documents, positions;
  for (std::size_t d = 0; d < lengths.size(); ++d)
    for (std::int64_t i = 0; i < lengths[d]; ++i) documents.push_back(static_cast<std::int64_t>(d));
  for (int axis = 0; axis < 3; ++axis)
    for (const auto length : lengths)
      for (std::int64_t i = 0; i < length; ++i) positions.push_back(i + axis * (i % 3));
  PackingOptions options;
  options.attention_block = attention_block;
  return pack_tokens(documents, positions, small_config(), options);
}

bool same_rope(const PackedTokens& a, const PackedTokens& b) {
  return at::equal(a.rope_cos, b.rope_cos) && at::equal(a.rope_sin, b.rope_sin);
}

double worst(const at::Tensor& got, const at::Tensor& want) {
  return got.numel() ? (got - want).abs().max().item<double>() : 0;
}

// f over a packed stream equals f over each document alone.
template <class F>
void check_documents_are_alone(const std::vector<std::int64_t>& lengths, const at::Tensor& x, F&& f) {
  const at::Tensor got = f(x, packed(lengths));
  std::int64_t begin = 0;
  for (const auto length : lengths) {
    const at::Tensor want = f(x.slice(0, begin, begin + length), packed({length}));
    CHECK(worst(got.slice(0, begin, begin + length), want) <= 1e-14);
    begin += length;
  }
}

}  // namespace

TEST_CASE("packing with other positions is what packing with them from the start is") {
  const PackedTokens tokens = packed({3, 4});
  std::vector<std::int64_t> positions;
  for (std::int64_t i = 0; i < 3 * 7; ++i) positions.push_back((5 * i) % 11);
  const PackedTokens moved = with_positions(tokens, positions, small_config());
  CHECK(same_rope(moved, pack_tokens(tokens.documents, positions, small_config(), tokens.options)));
  CHECK_FALSE(same_rope(moved, tokens));
  CHECK(moved.documents == tokens.documents);
  CHECK_THROWS(with_positions(tokens, {1, 2, 3}, small_config()));
}

TEST_CASE("the router's terms of the loss have their gradients, and padding counts nowhere") {
  Draw draw;
  const at::Tensor scores = draw({7, 5}), weights = draw({7, 2});
  const at::Tensor real = at::tensor({1., 0., 1., 1., 1., 0., 1.}, at::kDouble);
  const at::Tensor rows = at::tensor({0, 2, 3, 4, 6}, at::kLong);
  const at::Tensor experts = route(scores, 2).experts;
  const auto of = [&](const at::Tensor& x) {
    const auto loss = std::make_shared<RouterLoss>();
    loss->sums = at::zeros({11}, at::kDouble);
    loss->aux_weight = 0.7, loss->z_weight = 0.2;
    const at::Tensor out = with_router_loss(loss, x, {weights, experts}, real, "layers.0");
    with_router_loss(loss, x.detach(), {weights, experts}, real, "layers.0");  // as in recomputation
    loss->shares = loss->sums.slice(0, 0, 5) / 5;
    return std::pair(loss, out);
  };
  at::Tensor leaf = scores.clone().requires_grad_(true);
  const auto [loss, out] = of(leaf);
  CHECK(at::equal(out, weights));
  const at::Tensor p = at::softmax(scores, 1).index_select(0, rows);
  const at::Tensor lse = at::logsumexp(scores, {1}).index_select(0, rows);
  CHECK(loss->sums.slice(0, 0, 5).sum().item<double>() == 10);
  CHECK(worst(loss->sums.slice(0, 5, 10), p.sum(0)) <= 1e-14);
  CHECK(worst(loss->sums[10], lse.square().sum()) <= 1e-13);

  torch::autograd::backward({out}, {at::zeros_like(out)});
  at::Tensor plain = scores.clone().requires_grad_(true);
  const at::Tensor kept = plain.index_select(0, rows);
  const at::Tensor value = 0.7 * 5 * (at::softmax(kept, 1).sum(0) * loss->shares).sum() +
                           0.2 * at::logsumexp(kept, {1}).square().sum();
  value.backward();
  CHECK(worst(leaf.grad(), plain.grad()) <= 1e-14);
}

TEST_CASE("the gradient check sees one wrong element") {
  Draw draw;
  at::Tensor mask = at::ones({5, 4}, at::kDouble);
  mask[2][1] = 0;
  const auto wrong = [&](const auto& in) {
    return Tensors{in[0].square() * mask + (in[0].detach().square() * (1 - mask))};
  };
  CHECK(gradient_error(wrong, {draw({5, 4})}) > 1e-4);
}

TEST_CASE("norms and gates have right backwards") {
  Draw draw;
  const Primitives p = GENERATE(false, true) ? default_primitives() : aten_primitives();
  CHECK(gradient_error([&](const auto& in) { return Tensors{p.rms_norm(in[0], in[1], 1e-6)}; },
                       {draw({4, 6}), draw({3})}) <= kGradient);
  CHECK(gradient_error([&](const auto& in) { return Tensors{p.gated_rms_norm(in[0], in[1], in[2], 1e-6)}; },
                       {draw({4, 6}), draw({3}), draw({4, 6})}) <= kGradient);
  CHECK(gradient_error([&](const auto& in) { return Tensors{p.l2norm(in[0], 3)}; }, {draw({4, 6})}) <=
        kGradient);
  CHECK(gradient_error([&](const auto& in) { return Tensors{p.swiglu(in[0], in[1])}; },
                       {draw({4, 6}), draw({4, 6})}) <= kGradient);
  CHECK(gradient_error([&](const auto& in) { return Tensors{p.output_gate(in[0], in[1])}; },
                       {draw({4, 6}), draw({4, 6})}) <= kGradient);
  CHECK(gradient_error([&](const auto& in) { return Tensors{p.shared_expert_gate(in[0], in[1])}; },
                       {draw({4, 6}), draw({4, 1})}) <= kGradient);
}

TEST_CASE("the residual norm is zero-centred and per row") {
  Draw draw;
  const at::Tensor x = draw({5, 4}), w = draw({4});
  const at::Tensor want = x / (x.square().mean(1, true) + 1e-6).sqrt() * (1 + w);
  for (const Primitives& p : {aten_primitives(), default_primitives()})
    CHECK(worst(p.rms_norm(x, w, 1e-6), want) <= 1e-15 * 16);
}

TEST_CASE("several linear maps in one product equal each alone, with right backwards") {
  Draw draw;
  const Primitives p = GENERATE(false, true) ? default_primitives() : aten_primitives();
  const at::Tensor x = draw({5, 4}), a = draw({3, 4}), b = draw({0, 4}), c = draw({2, 4});
  const Tensors y = p.linear(x, {a, b, c});
  CHECK(worst(y[0], x.mm(a.t())) <= 1e-14);
  CHECK(y[1].sizes() == at::IntArrayRef({5, 0}));
  CHECK(worst(y[2], x.mm(c.t())) <= 1e-14);
  CHECK(gradient_error(
            [&](const auto& in) {
              return p.linear(in[0], {in[1], in[2], in[3]});
            },
            {x, a, b, c}) <= kGradient);
  CHECK(gradient_error([&](const auto& in) { return p.linear(in[0], {in[1]}); }, {x, a}) <= kGradient);
}

TEST_CASE("rotary embedding turns pairs by the interleaved axes and leaves the rest") {
  Draw draw;
  const Primitives p = GENERATE(false, true) ? default_primitives() : aten_primitives();
  const PackedTokens tokens = packed({4, 3});
  const at::Tensor x = draw({7, 12});
  const at::Tensor y = p.rope(x, tokens);
  // Token 3, head 1: position (3, 3, 3) + axis * (3 % 3); frequency 0 is time's, frequency 1 height's
  // (section 1,1,0).
  const std::int64_t token = 2;  // positions t=2, h=2+2
  for (std::int64_t i = 0; i < 2; ++i) {
    const double angle = (i == 0 ? 2.0 : 4.0) * std::pow(100.0, -2.0 * static_cast<double>(i) / 4.0);
    const double first = x[token][6 + i].item<double>(), second = x[token][6 + i + 2].item<double>();
    CHECK(y[token][6 + i].item<double>() ==
          Approx(first * std::cos(angle) - second * std::sin(angle)).margin(1e-14));
    CHECK(y[token][6 + i + 2].item<double>() ==
          Approx(second * std::cos(angle) + first * std::sin(angle)).margin(1e-14));
  }
  CHECK(worst(y.view({7, 2, 6}).slice(2, 4), x.view({7, 2, 6}).slice(2, 4)) == 0);
  CHECK(gradient_error([&](const auto& in) { return Tensors{p.rope(in[0], tokens)}; }, {x}) <= kGradient);
}

TEST_CASE("the convolution reads its own document only") {
  Draw draw;
  const Primitives p = GENERATE(false, true) ? default_primitives() : aten_primitives();
  const std::vector<std::int64_t> lengths = {5, 1, 2, 4};
  const at::Tensor u = draw({12, 5}), w = draw({5, 1, 4});
  check_documents_are_alone(lengths, u, [&](const at::Tensor& x, const PackedTokens& tokens) {
    return at::cat(p.short_conv(x, w, tokens, 3), 1);
  });
  const PackedTokens tokens = packed(lengths);
  // Token 4 has three predecessors in its document.
  double sum = 0;
  for (int j = 0; j < 4; ++j) sum += w[2][0][j].item<double>() * u[1 + j][2].item<double>();
  CHECK(p.short_conv(u, w, tokens, 3)[0][4][2].item<double>() == Approx(sum / (1 + std::exp(-sum))));
  CHECK(gradient_error([&](const auto& in) { return p.short_conv(in[0], in[1], tokens, 3); }, {u, w}) <=
        kGradient);
}

TEST_CASE("attention is causal inside documents, blind across them, and the same in blocks") {
  Draw draw;
  const Primitives p = GENERATE(false, true) ? default_primitives() : aten_primitives();
  const std::vector<std::int64_t> lengths = {3, 1, 6};
  const at::Tensor q = draw({10, 24}), k = draw({10, 12}), v = draw({10, 12});  // 4 query heads on 2
  const at::Tensor got = p.attention(q, k, v, packed(lengths), 6);
  std::int64_t begin = 0;
  for (const auto length : lengths)
    for (std::int64_t t = begin, end = begin += length; t < end; ++t)
      for (std::int64_t h = 0; h < 4; ++h) {
        const std::int64_t first = end - length, kv = (h / 2) * 6;
        const at::Tensor keys = k.slice(0, first, t + 1).slice(1, kv, kv + 6);
        const at::Tensor weights = at::softmax(keys.mv(q[t].slice(0, h * 6, h * 6 + 6)) / std::sqrt(6.0), 0);
        const at::Tensor want = v.slice(0, first, t + 1).slice(1, kv, kv + 6).t().mv(weights);
        CHECK(worst(got[t].slice(0, h * 6, h * 6 + 6), want) <= 1e-14);
      }
  const Tensors inputs{q, k, v};
  for (const std::int64_t block : {512, 4, 3, 1}) {
    const PackedTokens tokens = packed(lengths, block);
    CHECK(worst(p.attention(q, k, v, tokens, 6), got) <= 1e-14);
    CHECK(gradient_error([&](const auto& in) { return Tensors{p.attention(in[0], in[1], in[2], tokens, 6)}; },
                         inputs) <= kGradient);
  }
}

TEST_CASE("query and gate lie head by head") {
  const Primitives p = GENERATE(false, true) ? default_primitives() : aten_primitives();
  const at::Tensor x = at::arange(12, at::kDouble).view({1, 12});
  const Tensors parts = p.split_query_gate(x, 3);
  CHECK(at::equal(parts[0], at::tensor({0.0, 1.0, 2.0, 6.0, 7.0, 8.0}, at::kDouble).view({1, 6})));
  CHECK(at::equal(parts[1], at::tensor({3.0, 4.0, 5.0, 9.0, 10.0, 11.0}, at::kDouble).view({1, 6})));
  CHECK(gradient_error([&](const auto& in) { return p.split_query_gate(in[0], 3); }, {x}) <= kGradient);
}

TEST_CASE("routing renormalises the top k of a softmax over all experts") {
  Draw draw;
  const Primitives p = GENERATE(false, true) ? default_primitives() : aten_primitives();
  const at::Tensor logits = draw({6, 5});
  const Routing routing = p.route(logits, 2);
  const at::Tensor chosen = at::softmax(logits, 1).gather(1, routing.experts);
  CHECK(worst(routing.weights, chosen / chosen.sum(1, true)) <= 1e-15);
  CHECK(gradient_error([&](const auto& in) { return Tensors{p.route(in[0], 2).weights}; }, {logits}) <=
        kGradient);
}

TEST_CASE("experts equal a loop over tokens, however unequal, and an idle expert has exactly zero gradient") {
  Draw draw;
  const Primitives p = GENERATE(false, true) ? default_primitives() : aten_primitives();
  const std::int64_t experts = 7, width = 3, d = 4;
  const at::Tensor gate_up = draw({experts, 2 * width, d}), down = draw({experts, d, width});
  for (const std::int64_t tokens : {0, 1, 9, 700}) {
    const at::Tensor x = draw({tokens, d});
    at::Tensor logits = draw({tokens, experts});
    logits.select(1, 2).add_(4);   // most tokens choose expert 2: with 700 of them it is multiplied apart
    logits.select(1, 5).sub_(50);  // nobody chooses expert 5
    const Routing routing = p.route(logits, 2);
    Tensors in{x, routing.weights, gate_up, down};
    const auto run = [&](const Tensors& t) {
      return p.experts_ffn(t[0], {t[1], routing.experts}, t[2], t[3]);
    };
    const at::Tensor got = run(in);
    for (std::int64_t t = 0; t < tokens; ++t) {
      at::Tensor want = at::zeros({d}, at::kDouble);
      for (std::int64_t k = 0; k < 2; ++k) {
        const auto e = routing.experts[t][k].item<std::int64_t>();
        const at::Tensor h = gate_up[e].mv(x[t]);
        want += routing.weights[t][k] * down[e].mv(at::silu(h.slice(0, 0, width)) * h.slice(0, width));
      }
      REQUIRE(worst(got[t], want) <= 1e-13);
    }
    if (tokens < 100) CHECK(gradient_error([&](const auto& t) { return Tensors{run(t)}; }, in) <= kGradient);
    for (auto& t : in) t = t.detach().clone().requires_grad_(true);
    const at::Tensor y = run(in);
    torch::autograd::backward({y}, {at::ones_like(y)});
    CHECK(in[2].grad()[5].eq(0).all().item<bool>());
    CHECK(in[3].grad()[5].eq(0).all().item<bool>());
    CHECK(in[2].grad()[2].eq(0).all().item<bool>() == (tokens == 0));
  }
}

TEST_CASE("vocabulary shards of lookup and cross entropy add up to the whole, empty shards included") {
  Draw draw;
  const Primitives p = GENERATE(false, true) ? default_primitives() : aten_primitives();
  const at::Tensor table = draw({5, 3}), ids = at::tensor({4, 0, 2, 2}, at::kLong);
  const at::Tensor logits = draw({4, 5}), labels = at::tensor({1, -100, 4, 0}, at::kLong);
  const std::vector<meshparity::Range> shards = {{0, 2}, {2, 2}, {2, 5}};
  at::Tensor rows = at::zeros({4, 3}, at::kDouble), sums = at::zeros({2, 4}, at::kDouble);
  const at::Tensor max = logits.amax(1);
  for (const auto& s : shards) {
    rows = rows + p.embedding_lookup(table.slice(0, s.begin, s.end), ids, s.begin);
    sums = sums + p.logit_sums(logits.slice(1, s.begin, s.end), max, labels, s.begin);
  }
  CHECK(at::equal(rows, table.index_select(0, ids)));
  const at::Tensor log_softmax = at::log_softmax(logits, 1);
  const at::Tensor lse = sums[0].log() + max, logprob = sums[1] - sums[0].log();
  for (const int t : {0, 2, 3}) {
    const auto label = labels[t].item<std::int64_t>();
    CHECK(logprob[t].item<double>() == Approx(log_softmax[t][label].item<double>()).epsilon(1e-14));
    at::Tensor want = log_softmax[t].exp().neg();
    want[label] += 1;
    for (const auto& s : shards) {
      const at::Tensor weight = at::ones({4}, at::kDouble) * 0.7;
      const at::Tensor d = p.logit_gradient(logits.slice(1, s.begin, s.end), lse, labels, s.begin, weight);
      CHECK(worst(d[t], want.slice(0, s.begin, s.end) * 0.7) <= 1e-15);
    }
  }
  CHECK(gradient_error([&](const auto& in) { return Tensors{p.embedding_lookup(in[0], ids, 2)}; },
                       {table.slice(0, 2, 5)}) <= kGradient);
}

}  // namespace meshparity::impl::primitives_test

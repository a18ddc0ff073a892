// The policy: constants are tested against numbers worked out by hand, and what a bound must never do.
#include "harness/tolerance/policy.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <sstream>

#include "harness/types/error.h"

namespace meshparity::tolerance {
namespace {

Policy policy() {
  Policy p;
  p.rows["logits/float64"] = {1e-12, 0, 0, 1e-9, "forward"};
  p.rows["logprobs/float64"] = {1e-12, 0, 1.0, 1e-9, "nats"};
  p.rows["loss/float64"] = {1e-12, 0, 1.0, 1e-9, "nats"};
  p.rows["denominators/float64"] = {0, 0, 0, 0, "counts"};
  p.rows["grads/float64"] = {1e-11, 0, 1e-3, 1e-9, "grads"};
  p.rows["grads/float32"] = {0, 10, 1e-3, 0, "grads32"};
  p.rows["grad_norm/float64"] = {1e-11, 0, 0, 1e-9, "grad-norm"};
  p.rows["gradient_scale/float64"] = {1e-11, 0, 0, 1e-9, "scale"};
  p.rows["weights/float64"] = {8.9e-16, 0, 0, 1e-9, "weights"};
  return p;
}

HostTensor doubles(std::vector<double> v) {
  return HostTensor::from(DType::float64, {static_cast<std::int64_t>(v.size())}, v);
}

Context context() {
  Context c;
  c.grad_norm = 2.0;
  c.train.max_grad_norm = 0.5;
  c.train.eps = 1e-6;
  return c;
}

}  // namespace

TEST_CASE("a row is relative to the norm of its tensor") {
  const HostTensor want = doubles({3, 4});
  const Limits l = limits(policy(), "logits", context(), want.view());
  CHECK(l.norm == Approx(5e-12).epsilon(1e-12));
  CHECK(l.element == l.norm);
  CHECK(l.row == "logits/float64");
  CHECK(l.why.find("docs/tolerance.md#forward") != std::string::npos);
}

TEST_CASE("a small gradient is judged on the scale of the whole") {
  const Limits small = limits(policy(), "grads", context(), doubles({1e-9, 0}).view());
  CHECK(small.norm == Approx(1e-11 * 1e-3 * 2).epsilon(1e-12));
  const Limits large = limits(policy(), "grads", context(), doubles({0.3, 0.4}).view());
  CHECK(large.norm == Approx(1e-11 * 0.5).epsilon(1e-12));
}

TEST_CASE("a rollout's logprobs are judged token by token in nats, below temperature one more widely") {
  Policy p = policy();
  p.rows["rollout_logprobs/float64"] = {1e-12, 0, 1.0, 1e-9, "rollout"};
  p.rows["rollout_logprobs/float32"] = {0, 100, 1.0, 0, "rollout"};
  Context c = context();
  const HostTensor want = doubles({-3, 0, -1e-3, -40});
  const Limits l = limits(p, "rollout_logprobs", c, want.view());
  CHECK(l.element == 1e-12);
  CHECK(l.norm == Approx(2e-12).epsilon(1e-12));
  c.temperature = 2;
  CHECK(limits(p, "rollout_logprobs", c, want.view()).element == 1e-12);
  c.temperature = 0.5;
  CHECK(limits(p, "rollout_logprobs", c, want.view()).element == 2e-12);
  c.temperature = 1, c.dtype = DType::float32, c.config.hidden_size = 400, c.config.num_hidden_layers = 5;
  CHECK(limits(p, "rollout_logprobs", c, want.view()).element ==
        Approx(100 * 20 * std::pow(2.0, -24)).epsilon(1e-12));
  c.rounded_sides = 2;
  CHECK(limits(p, "rollout_logprobs", c, want.view()).element ==
        Approx(std::sqrt(2.0) * 100 * 20 * std::pow(2.0, -24)).epsilon(1e-12));
}

TEST_CASE("in a row that rests on a condition a measured one takes its place, and both rounded sides count") {
  Context c = context();
  c.config.hidden_size = 400, c.config.num_hidden_layers = 5;  // sqrt(K) = 20
  c.dtype = DType::float32;
  const auto grads = [&] { return limits(policy(), "grads", c, doubles({3, 4}).view()).norm; };
  const double one = 10 * std::ldexp(1, -24) * 20 * 5;
  CHECK(grads() == Approx(one).epsilon(1e-12));
  c.rounded_sides = 2;
  CHECK(grads() == Approx(std::sqrt(2) * one).epsilon(1e-12));
  c.conditions["grads"] = 5;
  CHECK(grads() == Approx(std::sqrt(2) * one / 2).epsilon(1e-12));
  c.conditions["grads"] = 1e6;
  CHECK(grads() == Approx(std::sqrt(2) * one * 1e5).epsilon(1e-12));
  c.dtype = DType::float64, c.conditions.clear();
  CHECK(grads() == Approx(1e-11 * 5).epsilon(1e-12));
}

TEST_CASE("gradients that cancel as a whole are judged on the scale of their loss") {
  Context c = context();
  c.grad_norm = 1e-15, c.loss_size = 4;
  CHECK(limits(policy(), "grads", c, doubles({1e-16, 0}).view()).norm == Approx(1e-11 * 1e-3 * 4));
  CHECK(limits(policy(), "grad_norm", c, HostTensor::scalar(1e-15).view()).norm == Approx(1e-11 * 4));
  CHECK(limits(policy(), "gradient_scale", c, HostTensor::scalar(1).view()).norm > 1);
  // A loss smaller than its gradient changes nothing.
  c.grad_norm = 8;
  CHECK(limits(policy(), "grads", c, doubles({1e-16, 0}).view()).norm == Approx(1e-11 * 1e-3 * 8));
  CHECK(limits(policy(), "grad_norm", c, HostTensor::scalar(8).view()).norm == Approx(1e-11 * 8));
  CHECK(limits(policy(), "gradient_scale", c, HostTensor::scalar(1).view()).norm == Approx(1e-11));
}

TEST_CASE("a measured condition widens a row by its derivation, never narrows it, never beyond 1e-9") {
  Context c = context();
  c.config.hidden_size = 400, c.config.num_hidden_layers = 5;  // sqrt(K) = 20
  const auto grads = [&](double condition) {
    c.conditions["grads"] = condition;
    return limits(policy(), "grads", c, doubles({3, 4}).view()).norm;
  };
  CHECK(grads(10) == Approx(5e-11).epsilon(1e-12));
  CHECK(grads(1e5) == Approx(5 * 1e5 * 0x1p-53 * 20).epsilon(1e-12));
  CHECK(grads(1e12) == Approx(5e-9).epsilon(1e-12));
  // Of its own check alone; weights carry the gradient's.
  CHECK(limits(policy(), "logits", c, doubles({3, 4}).view()).norm == Approx(5e-12).epsilon(1e-12));
  c.step = 1;
  const HostTensor want = doubles({1, 1}), grad = doubles({0.3, 0.4});
  const TensorView grad_view = grad.view();
  const double carried = weight_limits(policy(), c, want.view(), &grad_view).norm;
  c.conditions.clear();
  CHECK(carried > weight_limits(policy(), c, want.view(), &grad_view).norm);
}

TEST_CASE("weights of later steps may move as far as the reference's own do, and no further than 1e-6") {
  Context c = context();
  c.config.hidden_size = 400, c.config.num_hidden_layers = 5;  // sqrt(K) = 20
  c.tensor = "w", c.step = 2;
  HostTensor want = doubles({3, 4});
  want.shape = {2, 1};
  const HostTensor grad = doubles({0.3, 0.4});
  const TensorView grad_view = grad.view();
  const auto of = [&](double condition) {
    c.conditions["weights/step2/w"] = condition;
    return weight_limits(policy(), c, want.view(), &grad_view);
  };
  CHECK(of(1).norm == Approx(5e-9));  // never narrower than without
  CHECK(of(1).element == Approx(4e-9));
  CHECK(of(1e8).norm == Approx(1e8 * 0x1p-53 * 20).epsilon(1e-12));
  CHECK(of(1e8).element == of(1e8).norm);
  CHECK(of(1e15).norm == Approx(5e-6));
  CHECK(of(1e15).element == Approx(4e-6));
  c.step = 1;  // its gradient is bounded, and its bound is not measured
  c.conditions["weights/step1/w"] = 1e15;
  CHECK(weight_limits(policy(), c, want.view(), &grad_view).norm < 5e-9);
}

TEST_CASE("no element's bound exceeds the cap") {
  const HostTensor want = HostTensor::from(DType::float64, {std::int64_t{1} << 16},
                                           std::vector<double>(std::size_t{1} << 16, 0.5));
  Context c = context();
  const Limits l = limits(policy(), "grads", c, want.view());  // norm 128: 1.28e-9, cap 0.5e-9
  CHECK(l.norm == Approx(1.28e-9));
  CHECK(l.element == Approx(0.5e-9));
  // A tensor far below the gradient norm: the cap is on the floor's scale.
  c.grad_norm = 1e9;
  CHECK(limits(policy(), "grads", c, want.view()).element == Approx(1e-11 * 1e6));
}

TEST_CASE("where nothing has a gradient nothing may have one") {
  Context c = context();
  c.grad_norm = 0;
  const Limits l = limits(policy(), "grads", c, doubles({0, 0, 0}).view());
  CHECK(l.norm == 0);
  CHECK(l.element == 0);
}

TEST_CASE("slices nothing reaches are exact for experts and embedding rows only") {
  using Slices = std::vector<std::int64_t>;
  Context c = context();
  // Rows 0, 2 and 3 are zero.
  const HostTensor want =
      HostTensor::from(DType::float64, {4, 2}, std::vector<double>{0, 0, 1, 0, 0, -0.0, 0, 0});
  c.token_ids = {1, 2, 1};
  const auto exact = [&](const char* check, const char* name) {
    c.tensor = name;
    return limits(policy(), check, c, want.view()).exact_zero_slices;
  };
  CHECK(exact("grads", "model.layers.3.mlp.experts.gate_up_proj") == Slices{0, 2, 3});
  CHECK(exact("grads", "model.layers.3.mlp.experts.down_proj") == Slices{0, 2, 3});
  // Of unknown code only the last layer proves that no token reached an expert.
  c.documents_alone = false, c.config.num_hidden_layers = 4;
  CHECK(exact("grads", "model.layers.3.mlp.experts.down_proj") == Slices{0, 2, 3});
  CHECK(exact("grads", "model.layers.2.mlp.experts.down_proj").empty());
  CHECK(exact("grads", "model.layers.30.mlp.experts.down_proj").empty());
  CHECK(exact("grads", "model.embed_tokens.weight") == Slices{0, 3});
  c.documents_alone = true;
  CHECK(exact("grads", "model.layers.2.mlp.experts.down_proj") == Slices{0, 2, 3});
  // Id 2 is used and gets no gradient: it is reached, its zero is a cancellation.
  CHECK(exact("grads", "model.embed_tokens.weight") == Slices{0, 3});
  CHECK(exact("grads", "model.layers.3.self_attn.q_norm.weight").empty());
  CHECK(exact("grads", "model.layers.3.mlp.shared_expert.up_proj.weight").empty());
  CHECK(exact("logits", "logits").empty());
  // Unknown ids prove nothing.
  c.token_ids = {};
  CHECK(exact("grads", "model.embed_tokens.weight").empty());
  // A placeholder's row is replaced by an image's.
  c.token_ids = {1, 2, 1}, c.config.image_token_id = 2;
  CHECK(exact("grads", "model.embed_tokens.weight") == Slices{0, 2, 3});
}

TEST_CASE("a tower without images and a layer without loss have gradients of exactly zero") {
  Context c = context();
  const auto exact = [&](const char* name, std::initializer_list<double> values) {
    c.tensor = name;
    const HostTensor want = doubles(values);
    return limits(policy(), "grads", c, want.view()).exact_zero_slices.size();
  };
  CHECK(exact("model.visual.merger.norm.bias", {0, 0, 0}) == 3);
  CHECK(exact("mtp.fc.weight", {0, 0}) == 2);
  CHECK(exact("model.visual.merger.norm.bias", {0, 1, 0}) == 0);
  CHECK(exact("model.norm.weight", {0, 0, 0}) == 0);
}

TEST_CASE("nats have an absolute floor per token") {
  const HostTensor sure = doubles({-1e-9, 0, 0, -1e-12});
  const Limits l = limits(policy(), "logprobs", context(), sure.view());
  CHECK(l.norm == Approx(2e-12));  // 1 nat on each of 4 tokens
  CHECK(l.element == Approx(2e-12));
  CHECK(limits(policy(), "loss", context(), HostTensor::scalar(0.5).view()).norm == Approx(1e-12));
  CHECK(limits(policy(), "loss", context(), HostTensor::scalar(500).view()).norm == Approx(5e-10));
}

TEST_CASE("counts are exact") {
  const Limits l = limits(policy(), "denominators", context(), doubles({37, 1, 0}).view());
  CHECK(l.norm == 0);
  CHECK(l.element == 0);
}

TEST_CASE("a condition is multiplied by roundoff and the root of longest reduction and depth") {
  Context c = context();
  c.dtype = DType::float32;
  c.tokens = 144;
  c.config.hidden_size = 8, c.config.vocab_size = 100, c.config.num_hidden_layers = 5;
  CHECK(rounding_growth(c.config, c.tokens) == 12);
  CHECK(limits(policy(), "grads", c, doubles({3, 4}).view()).norm == Approx(5 * 10 * 0x1p-24 * 12));
  c.config.num_hidden_layers = 20;
  CHECK(rounding_growth(c.config, c.tokens) == 24);
  c.config.num_hidden_layers = 1;
  CHECK(rounding_growth(c.config, c.tokens) == 12);
  c.config.vocab_size = 400;
  CHECK(rounding_growth(c.config, c.tokens) == 20);
}

TEST_CASE("an expectation that is not a number accepts nothing") {
  const HostTensor want = doubles({1, std::nan("")});
  for (const char* check : {"logits", "grads", "logprobs"}) {
    const Limits l = limits(policy(), check, context(), want.view());
    CHECK_FALSE(0.0 <= l.norm);
  }
}

TEST_CASE("a check without a row is refused") {
  CHECK_THROWS_WITH(limits(policy(), "activations", context(), doubles({1}).view()),
                    "tolerance.toml: activations/float64: the policy has no such row");
  Context c = context();
  c.dtype = DType::bfloat16;
  CHECK_THROWS_AS(limits(policy(), "grads", c, doubles({1}).view()), InputError);
}

TEST_CASE("the gradient bound is carried through AdamW") {
  Context c = context();
  c.step = 1;
  const HostTensor weight = doubles({0.5, -0.25, 1e3});  // a large weight, so that the cap does not act
  const HostTensor gradient = doubles({0.3, -0.4, 0});
  const TensorView gradient_view = gradient.view();
  // scale 0.25; delta = 2 * 0.25 * 1e-11 * 0.5; kappa = 1; sqrt(v) = |g| * scale; smallest |g| = 0.3.
  const double delta = 2 * 0.25 * 1e-11 * 0.5;
  const double carried = 1e-3 * 2 * delta / (0.3 * 0.25 + 1e-6);
  Limits l = weight_limits(policy(), c, weight.view(), &gradient_view);
  CHECK(l.element == Approx(carried + 8.9e-16 * 1e3).epsilon(1e-5));
  SECTION("from the second step on the cap decides: other weights may have moved this gradient") {
    for (const int step : {2, 3, 50}) {
      c.step = step;
      CHECK(weight_limits(policy(), c, weight.view(), &gradient_view).element == Approx(1e-9 * 1e3));
      CHECK(weight_limits(policy(), c, weight.view(), nullptr).element == Approx(1e-9 * 1e3));
    }
  }
  SECTION("without a cap a later step may go either way, and no further") {
    Policy open = policy();
    open.rows["weights/float64"].cap = 0;
    c.step = 2, c.train.beta1 = 0, c.train.beta2 = 0.5;
    // kappa = 1 / sqrt(second moment's share of the last gradient) = sqrt(3/2)
    CHECK(weight_limits(open, c, weight.view(), &gradient_view).element ==
          Approx(carried + 1e-3 * 2 * std::sqrt(1.5)).epsilon(1e-6));
  }
  SECTION("without gradients the worst case is delta/eps") {
    const double worst = 1e-3 * 2 * (2 * 0.25 * 1e-11 * 2.0) / 1e-6;
    CHECK(weight_limits(policy(), c, weight.view(), nullptr).element == Approx(worst).epsilon(1e-3));
  }
  SECTION("never more than the cap: of the largest element of a matrix, of 1 for a vector") {
    HostTensor tiny = doubles({0.5, -0.25, 1e-3});
    const HostTensor vanishing = doubles({0.3, 1e-12, 0});
    const TensorView view = vanishing.view();
    l = weight_limits(policy(), c, tiny.view(), &view);
    CHECK(l.element == Approx(1e-9));
    tiny.shape = {3, 1};
    l = weight_limits(policy(), c, tiny.view(), &view);
    CHECK(l.element == Approx(0.5e-9));
    CHECK(l.norm == Approx(1e-9 * std::hypot(0.5, 0.25, 1e-3)));
  }
  SECTION("without any gradient only rounding is left") {
    c.grad_norm = 0;
    const HostTensor none = doubles({0, 0, 0});
    const TensorView view = none.view();
    l = weight_limits(policy(), c, weight.view(), &view);
    CHECK(l.element == Approx(8.9e-16 * 1e3));
  }
}

TEST_CASE("forgetful moments do not make a bound out of nothing") {
  Context c = context();
  c.step = 3;
  c.train.beta1 = 0, c.train.beta2 = 0;
  const HostTensor weight = doubles({0.5}), gradient = doubles({0.3});
  const TensorView g = gradient.view();
  const Limits memoryless = weight_limits(policy(), c, weight.view(), &g);
  CHECK(std::isfinite(memoryless.element));
  c.train.beta1 = 0.9;
  CHECK(weight_limits(policy(), c, weight.view(), &g).element == Approx(1e-9));
}

TEST_CASE("every row of tolerance.toml is derived in docs/tolerance.md") {
  const auto read = [](const char* path) {
    std::ifstream file(std::string(MESHPARITY_SOURCE_DIR) + path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  };
  std::istringstream rows(read("/scenarios/tolerance.toml"));
  const std::string docs = read("/docs/tolerance.md");
  int found = 0;
  for (std::string line; std::getline(rows, line);) {
    if (line.rfind("doc = ", 0) != 0) continue;
    const auto open = line.find('"'), close = line.rfind('"');
    REQUIRE(close > open);
    const std::string anchor = line.substr(open + 1, close - open - 1);
    INFO(anchor);
    CHECK(docs.find("\n## " + anchor + "\n") != std::string::npos);
    ++found;
  }
  CHECK(found >= 16);
}

}  // namespace meshparity::tolerance

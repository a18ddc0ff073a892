// Proves that rollout from caches gives what the whole document gives, however its prompt is cut, and that
// sampling does to logits what it says. The cuts are the dangerous part: every cache meets an edge in them.
#include "reference/rollout/rollout.h"

#include <catch2/catch.hpp>

#include "harness/types/error.h"
#include "reference/blocks/delta_rule.h"
#include "reference/blocks/oracle_check.h"
#include "reference/host_tensor.h"
#include "reference/layer_weights.h"
#include "reference/rollout/sequence.h"
#include "reference/test_models.h"

namespace meshparity::reference::rollout_test {
namespace {

ModelConfig tiny_vl_moe() {
  ModelConfig config = tiny_vl();
  config.name = "tiny-vl-moe";
  config.intermediate_size = 0;
  config.num_experts = 12, config.num_experts_per_tok = 2;
  config.moe_intermediate_size = 8, config.shared_expert_intermediate_size = 12;
  return config;
}

const std::vector<ModelConfig> kModels = {tiny_dense(), tiny_moe(), tiny_tied(), tiny_vl(), tiny_vl_moe()};

TensorMap weights_of(const ModelConfig& config) {
  return to_tensors(test_weights(config));
}

// Documents of 9, 1, 2, 7 and 9 tokens, of which the first and the last begin with the same four and the
// second is a single one; of multimodal models those with images.
Batch sequences(const ModelConfig& config) {
  if (config.has_vision()) return make_batch_with_images(config);
  Batch batch = make_batch(config, {9, 1, 2, 7, 9}, {2, 1, 2}, {2, 1});
  for (std::int64_t t = 0; t < 4; ++t) batch.token_ids[19 + t] = batch.token_ids[t];
  for (std::int64_t t = 0; t < 3; ++t) batch.labels[19 + t] = batch.token_ids[20 + t];
  batch.labels[2] = batch.labels[12] = kIgnoreLabel;
  return batch;
}

double difference(const at::Tensor& got, const at::Tensor& want) {
  REQUIRE(got.sizes() == want.sizes());
  return ((got - want).norm() / want.norm()).item<double>();
}

TensorMap trained(const ModelConfig& config, const TensorMap& weights, const Batch& batch) {
  return run(config, weights, batch, {}, {.gradients = false, .routes = config.is_moe()});
}

TensorMap routes_of(const TensorMap& trained) {
  TensorMap routes;
  const std::string prefix = "routes/pass1/";
  for (const auto& [key, experts] : trained)
    if (key.rfind(prefix, 0) == 0) routes[key.substr(prefix.size())] = experts;
  return routes;
}

// One token with these logits and label.
TensorMap sample(const std::vector<double>& logits, std::int64_t label, const char* spec) {
  Batch batch;
  batch.labels = {label};
  return sampled(at::tensor(logits, at::kDouble).unsqueeze(0), batch, RolloutSpec::parse(spec));
}

double only(const TensorMap& results, const std::string& key) {
  return results.at("rollout/" + key).to(at::kDouble).item<double>();
}

}  // namespace

TEST_CASE("a rollout in any cut has the logits of the whole document") {
  const ModelConfig config = GENERATE(from_range(kModels));
  const char* spec = GENERATE("plain", "chunk=1", "chunk=2", "chunk=3", "chunk=64", "prompt=1", "prompt=64",
                              "prompt=5:chunk=2", "prompt=64:chunk=3", "prefix=1", "prompt=6:prefix=4",
                              "prompt=6:prefix=4:chunk=3");
  INFO(config.name << " " << spec);
  const TensorMap weights = weights_of(config);
  const Batch batch = sequences(config);
  const TensorMap want = trained(config, weights, batch);
  const TensorMap got = rollout(config, weights, batch, RolloutSpec::parse(spec));

  CHECK(difference(got.at("rollout/logits"), want.at("logits")) <= 1e-13);
  // In nats; how far beyond 1e-13 it comes depends on the processor's order of sums.
  CHECK((got.at("rollout/logprobs") - want.at("logprobs")).abs().max().item<double>() <= 1e-12);
  CHECK(at::equal(got.at("rollout/logprobs"), got.at("rollout/sampling_logprobs")));
  for (const auto& [layer, experts] : routes_of(want))
    CHECK(at::equal(got.at("rollout/routes/" + layer), experts));
  CHECK(got.size() == 4 + routes_of(want).size());
}

TEST_CASE("sequences that begin alike share what they begin with and nothing else") {
  const ModelConfig config = tiny_dense();
  const TensorMap weights = weights_of(config);
  const Batch batch = sequences(config);
  const at::Tensor logits =
      rollout(config, weights, batch, RolloutSpec::parse("prompt=6:prefix=4")).at("rollout/logits");
  const at::Tensor plain =
      rollout(config, weights, batch, RolloutSpec::parse("prompt=6:chunk=4")).at("rollout/logits");
  // The same cut: the shared caches are copies, bit by bit, and the second sequence goes its own way.
  CHECK(at::equal(logits, plain));
  CHECK(at::equal(logits.narrow(0, 0, 4), logits.narrow(0, 19, 4)));
  CHECK(!at::equal(logits.narrow(0, 4, 1), logits.narrow(0, 23, 1)));
}

TEST_CASE("an image in the prefix is part of what sequences must share") {
  const ModelConfig config = tiny_vl();
  const TensorMap weights = weights_of(config);
  Batch batch = make_batch(config, {6, 6}, {2}, {1});
  batch.token_ids = {5, 61, 6, 7, 8, 9, 5, 61, 6, 7, 8, 9};
  for (std::int64_t t = 0; t < 12; ++t) batch.labels[t] = t % 6 == 5 ? kIgnoreLabel : batch.token_ids[t + 1];
  batch.images.grids = {{1, 2, 2}, {1, 2, 2}};
  batch.images.pixels = normals("two images", 8 * config.vision.patch_width(), 0.5);
  const at::Tensor got =
      rollout(config, weights, batch, RolloutSpec::parse("prompt=5:prefix=4")).at("rollout/logits");
  CHECK(difference(got, trained(config, weights, batch).at("logits")) <= 1e-13);
}

TEST_CASE("a decode step sees the caches and not the tokens before it") {
  const ModelConfig config = tiny_dense();
  const TensorMap weights = weights_of(config);
  const Batch batch = sequences(config);
  const Document document = document_of(config, batch, 0, at::kDouble);
  SequenceInputs inputs = {
      document.token_ids, embed_document(config, weights, document), document.positions, {}};
  Cache cache = empty_cache(config, weights);
  advance(config, weights, inputs, {0, 5}, cache);
  const Cache kept = cache;
  const at::Tensor want = advance(config, weights, inputs, {5, 6}, cache).logits;

  inputs.embeddings = inputs.embeddings.clone();
  inputs.embeddings.narrow(0, 0, 5).fill_(NAN);
  cache = kept;
  CHECK(at::equal(advance(config, weights, inputs, {5, 6}, cache).logits, want));
  for (std::size_t i = 0; i < kept.layers.size(); ++i) {
    cache = kept;
    LayerCache& layer = cache.layers[i];
    at::Tensor& remembered = config.full_attention[i] ? layer.keys : layer.state;
    remembered = remembered * 1.001;
    CHECK(difference(advance(config, weights, inputs, {5, 6}, cache).logits, want) > 1e-7);
    cache = kept;
    at::Tensor& other = config.full_attention[i] ? cache.layers[i].values : cache.layers[i].conv_inputs;
    other = other * 1.001;
    CHECK(difference(advance(config, weights, inputs, {5, 6}, cache).logits, want) > 1e-7);
  }
  CHECK_THROWS_WITH(advance(config, weights, inputs, {6, 7}, cache = kept),
                    Catch::Contains("do not follow the 5"));
}

TEST_CASE("delta rule steps in two calls are the whole delta rule") {
  const std::int64_t tokens = 7, heads = 3, key = 4, value = 5;
  const at::Tensor q = random_tensor("q", {tokens, heads, key}), k = random_tensor("k", {tokens, heads, key});
  const at::Tensor v = random_tensor("v", {tokens, heads, value});
  const at::Tensor g = -random_tensor("g", {tokens, heads}).abs();
  const at::Tensor beta = at::sigmoid(random_tensor("beta", {tokens, heads}));
  const at::Tensor want = gated_delta_rule(q, k, v, g, beta);
  at::Tensor state = at::zeros({heads, key, value}, at::kDouble);
  std::vector<at::Tensor> outputs;
  for (const Range part : {Range{0, 3}, Range{3, 7}}) {
    const auto of = [&](const at::Tensor& x) { return x.narrow(0, part.begin, part.size()); };
    const DeltaSteps steps = delta_steps(of(q), of(k), of(v), of(g), of(beta), state);
    state = steps.state;
    outputs.push_back(steps.o);
  }
  CHECK(difference(at::cat(outputs), want) <= 1e-14);
}

TEST_CASE("replayed experts are used, whatever the router would choose") {
  const ModelConfig config = GENERATE(tiny_moe(), tiny_vl_moe());
  const TensorMap weights = weights_of(config);
  const Batch batch = sequences(config);
  const TensorMap want = trained(config, weights, batch);
  TensorMap routes = routes_of(want);
  const RolloutSpec replay = RolloutSpec::parse("replay=on:chunk=2");
  const TensorMap plain = rollout(config, weights, batch, RolloutSpec::parse("chunk=2"));
  const TensorMap same = rollout(config, weights, batch, replay, routes);
  CHECK(at::equal(same.at("rollout/logits"), plain.at("rollout/logits")));

  // The next expert, for one token, which another layer's router would not notice.
  at::Tensor& moved = routes.at("layers.2");
  moved = moved.clone();
  moved[3] = (moved[3] + 1) % config.num_experts;
  const TensorMap other = rollout(config, weights, batch, replay, routes);
  CHECK(at::equal(other.at("rollout/routes/layers.2"), moved));
  CHECK(difference(other.at("rollout/logits"), want.at("logits")) > 1e-6);
  // Earlier tokens and other documents know nothing of it.
  const Range first = batch.document(0);
  CHECK(at::equal(other.at("rollout/logits").narrow(0, 0, 2), same.at("rollout/logits").narrow(0, 0, 2)));
  CHECK(at::equal(other.at("rollout/logits").slice(0, first.end),
                  same.at("rollout/logits").slice(0, first.end)));
}

TEST_CASE("replay without experts, or with impossible ones, is refused by name") {
  const ModelConfig config = tiny_moe();
  const TensorMap weights = weights_of(config);
  const Batch batch = sequences(config);
  const RolloutSpec replay = RolloutSpec::parse("replay=on");
  TensorMap routes = routes_of(trained(config, weights, batch));
  const at::Tensor right = routes.at("layers.1");
  const auto refused = [&](const std::string& why) {
    CHECK_THROWS_WITH(rollout(config, weights, batch, replay, routes),
                      Catch::Contains("routes/layers.1") && Catch::Contains(why));
  };
  routes["layers.1"] = right.slice(0, 1);
  refused("[28,2]");
  routes["layers.1"] = right.to(at::kInt);
  refused("int64");
  routes["layers.1"] = right + config.num_experts;
  refused("expert");
  routes.erase("layers.1");
  refused("missing");
}

TEST_CASE("float32 weights roll out in float32") {
  const ModelConfig config = tiny_moe();
  TensorMap weights = weights_of(config);
  const Batch batch = sequences(config);
  const TensorMap want = rollout(config, weights, batch, {});
  for (auto& [name, weight] : weights) weight = weight.to(at::kFloat);
  const TensorMap got = rollout(config, weights, batch, {});
  CHECK(got.at("rollout/logprobs").scalar_type() == at::kFloat);
  CHECK(difference(got.at("rollout/logits").to(at::kDouble), want.at("rollout/logits")) <= 1e-5);
}

TEST_CASE("temperature divides the logits") {
  // Odds 1 : 4 : 16; their roots at temperature 2, their squares at one half.
  const std::vector<double> logits = {0, std::log(4.0), std::log(16.0)};
  CHECK(only(sample(logits, 1, "plain"), "logprobs") == Approx(std::log(4.0 / 21)).epsilon(1e-15));
  CHECK(only(sample(logits, 1, "temperature=2"), "logprobs") == Approx(std::log(2.0 / 7)).epsilon(1e-15));
  CHECK(only(sample(logits, 1, "temperature=0.5"), "logprobs") ==
        Approx(std::log(16.0 / 273)).epsilon(1e-15));
  CHECK(only(sample(logits, 0, "temperature=0.5"), "sampling_logprobs") ==
        Approx(std::log(1.0 / 273)).epsilon(1e-15));
}

TEST_CASE("top-p keeps the smallest set that holds it and renormalises") {
  // Probabilities 1/2, 1/8, 1/4, 1/8.
  const std::vector<double> logits = {std::log(4.0), 0, std::log(2.0), 0};
  const auto logprob = [&](std::int64_t label, const char* spec) {
    const TensorMap results = sample(logits, label, spec);
    CHECK(only(results, "logprobs") == Approx(logits[label] - std::log(8.0)).epsilon(1e-15));
    return only(results, "in_support") == 1 ? only(results, "sampling_logprobs") : 1;
  };
  CHECK(logprob(0, "top_p=0.3") == Approx(0).margin(1e-15));
  CHECK(logprob(2, "top_p=0.3") == 1);
  CHECK(logprob(0, "top_p=0.6") == Approx(std::log(2.0 / 3)).epsilon(1e-15));
  CHECK(logprob(2, "top_p=0.6") == Approx(std::log(1.0 / 3)).epsilon(1e-15));
  CHECK(logprob(1, "top_p=0.6") == 1);
  CHECK(logprob(3, "top_p=1") == Approx(std::log(1.0 / 8)).epsilon(1e-15));
}

TEST_CASE("at the edge of top-p the set ends as soon as it is full, and the smaller of equal ids is in it") {
  const std::vector<double> equal(4, 0.0);  // each exactly 1/4
  const auto in_support = [&](std::int64_t label, const char* spec) {
    return only(sample(equal, label, spec), "in_support");
  };
  CHECK(in_support(1, "top_p=0.5") == 1);
  CHECK(in_support(2, "top_p=0.5") == 0);
  CHECK(in_support(2, "top_p=0.51") == 1);
  CHECK(in_support(3, "top_p=0.51") == 0);
  CHECK(in_support(0, "top_p=0.000001") == 1);
  CHECK(in_support(3, "top_p=1") == 1);
  CHECK(only(sample(equal, 2, "top_p=0.5"), "sampling_logprobs") == 0);
  CHECK(only(sample(equal, kIgnoreLabel, "top_p=0.5"), "in_support") == 0);
  CHECK(only(sample(equal, kIgnoreLabel, "top_p=0.5"), "logprobs") == 0);
}

TEST_CASE("top_p of 1 keeps tokens that the sum no longer sees") {
  // Beside the first token the others are below its last digit: their sum reaches 1 before them.
  const TensorMap results = sample({0, -50, -60}, 2, "top_p=1");
  CHECK(only(results, "in_support") == 1);
  CHECK(only(results, "sampling_logprobs") == only(results, "logprobs"));
  CHECK(only(results, "logprobs") == Approx(-60).epsilon(1e-15));
}

}  // namespace meshparity::reference::rollout_test

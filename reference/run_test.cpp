// Proves that run() keeps its promises on inputs the goldens do not have: documents of any length, no valid
// label, positions of its own, tied embeddings, idle experts, float32, wrong weights.
#include <algorithm>
#include <catch2/catch.hpp>

#include "harness/types/error.h"
#include "harness/types/loss_sum.h"
#include "reference/blocks/oracle_check.h"
#include "reference/host_tensor.h"
#include "reference/model.h"
#include "reference/oracle/router_loss.h"
#include "reference/reference.h"
#include "reference/test_models.h"

namespace meshparity::reference::run_test {
namespace {

const std::vector<ModelConfig> kModels = {tiny_dense(), tiny_moe()};

TensorMap weights_of(const ModelConfig& config) {
  return to_tensors(test_weights(config));
}

Batch small_batch(const ModelConfig& config) {
  Batch batch = make_batch(config, {5, 1, 2, 7, 3}, {2, 1, 2}, {2, 1});
  batch.labels[0] = kIgnoreLabel;
  batch.labels[10] = kIgnoreLabel;
  return batch;
}

ModelConfig two_layers_of_experts() {
  ModelConfig config = tiny_moe();
  config.num_hidden_layers = 2, config.full_attention = {false, true};
  config.mtp_num_hidden_layers = 1;
  return config;
}

double difference(const at::Tensor& got, const at::Tensor& want) {
  REQUIRE(got.sizes() == want.sizes());
  return ((got - want).norm() / want.norm()).item<double>();
}

}  // namespace

TEST_CASE("a document's results do not depend on its neighbours") {
  const ModelConfig config = GENERATE(from_range(kModels));
  const TensorMap weights = weights_of(config);
  const Batch batch = small_batch(config);
  const TensorMap together = run(config, weights, batch, {}, {.gradients = false});

  for (std::int64_t d = 0; d < batch.documents(); ++d) {
    const Range tokens = batch.document(d);
    Batch alone = make_batch(config, {tokens.size()}, {1}, {1});
    std::copy_n(batch.token_ids.begin() + tokens.begin, tokens.size(), alone.token_ids.begin());
    std::copy_n(batch.labels.begin() + tokens.begin, tokens.size(), alone.labels.begin());
    const TensorMap result = run(config, weights, alone, {}, {.gradients = false});
    CHECK(at::equal(result.at("logits"), together.at("logits").narrow(0, tokens.begin, tokens.size())));
  }
}

TEST_CASE("the router's terms are means over micro-batches of what the oracle gives for each") {
  const ModelConfig config = two_layers_of_experts();
  const TensorMap weights = weights_of(config);
  const Batch batch = small_batch(config);  // micro-batches of 8 and 10 tokens
  const TensorMap results = run(config, weights, batch, {}, {.loss = "token_mean+aux+router_z"});

  double aux = 0, z = 0;
  for (std::int64_t m = 0; m < batch.micro_batches(); ++m) {
    const Range rows = batch.micro_batch_rows(m);
    std::vector<at::Tensor> decisions;
    for (std::int64_t d = batch.row_offsets[rows.begin]; d < batch.row_offsets[rows.end]; ++d) {
      forward_document(config, weights, document_of(config, batch, d, at::kDouble),
                       {.router_logits = &decisions});
    }
    const at::Tensor all = at::cat(decisions);
    CHECK(all.size(0) == config.num_hidden_layers * batch.micro_batch_tokens(m).size());
    aux += oracle::load_balancing_loss<double>(to_matrix(all), config.num_experts_per_tok) / 2;
    z += oracle::router_z_loss<double>(to_matrix(all)) / 2;
  }
  CHECK(results.at("loss/aux").item<double>() == Approx(aux).epsilon(1e-13));
  CHECK(results.at("loss/router_z").item<double>() == Approx(z).epsilon(1e-13));
  CHECK(results.at("denominators/aux")[1].item<double>() == 2 * 10);
  CHECK(results.count("loss/lm_z") == 0);
}

TEST_CASE("every term's gradient is its directional derivative") {
  const ModelConfig config = two_layers_of_experts();
  const std::string term =
      GENERATE("policy_gradient", "lm_z", "mtp", "router_z", "aux", "2*sum+0.5*aux+3*mtp");
  INFO(term);
  const TensorMap weights = weights_of(config);
  const Batch batch = small_batch(config);
  const auto value_at = [&](const TensorMap& at) {
    const TensorMap results = run(config, at, batch, {}, {.loss = term, .gradients = false});
    double value = 0;
    for (const auto& t : parse_loss(term).terms)
      value += t.weight * results.at("loss/" + t.name).item<double>();
    return value;
  };
  const TensorMap results = run(config, weights, batch, {}, {.loss = term});
  const double h = 1e-7;
  TensorMap above, below;
  double want = 0;
  for (const auto& [name, weight] : weights) {
    const at::Tensor direction = random_tensor("direction " + name, weight.sizes().vec());
    above[name] = weight + h * direction, below[name] = weight - h * direction;
    want += (results.at("grads/" + name) * direction).sum().item<double>();
  }
  CHECK((value_at(above) - value_at(below)) / (2 * h) == Approx(want).epsilon(1e-5));
}

TEST_CASE("the term mtp predicts the token after the next inside documents and has its own count") {
  const ModelConfig config = tiny_vl();
  const TensorMap weights = weights_of(config);
  Batch batch = make_batch_with_images(config);
  const TensorMap both = run(config, weights, batch, {}, {.loss = "token_mean+0.1*mtp"});
  // Documents of 11, 1 and 4 tokens: 10 + 0 + 3 labels, of which each document's first judges no slot.
  CHECK(both.at("denominators/token_mean").item<double>() == 13);
  CHECK(both.at("denominators/mtp").item<double>() == 9 + 2);
  CHECK(both.at("denominators/mtp").dim() == 0);

  double sum = 0;
  for (std::int64_t d : {0, 2}) {
    const Range tokens = batch.document(d);
    const Document document = document_of(config, batch, d, at::kDouble);
    const Forward forward = forward_document(config, weights, document, {});
    const at::Tensor logprobs = at::log_softmax(forward_mtp(config, weights, document, forward), -1);
    REQUIRE(logprobs.size(0) == tokens.size() - 1);
    for (std::int64_t slot = 0; slot + 2 < tokens.size(); ++slot)
      sum -= logprobs[slot][batch.token_ids[tokens.begin + slot + 2]].item<double>();
  }
  CHECK(both.at("loss/mtp").item<double>() == Approx(sum / 11).epsilon(1e-14));

  // The sum's gradients are the sums of the terms' gradients; token_mean alone reaches nothing of mtp.
  const TensorMap mean = run(config, weights, batch, {}, {}),
                  mtp = run(config, weights, batch, {}, {.loss = "mtp"});
  for (const ParameterInfo& p : parameters_of(config)) {
    INFO(p.name);
    const std::string name = "grads/" + p.name;
    const at::Tensor want = mean.at(name) + 0.1 * mtp.at(name);
    CHECK((both.at(name) - want).norm().item<double>() <= 1e-12 * both.at("grad_norm").item<double>());
    if (p.name.rfind("mtp.", 0) == 0) CHECK(mean.at(name).count_nonzero().item<std::int64_t>() == 0);
    CHECK(mtp.at(name).count_nonzero().item<std::int64_t>() > 0);
  }

  // A token sees itself, the next and what came before: a change of the last token changes the last slot
  // alone.
  Batch changed = batch;
  changed.token_ids.back() = 17, changed.labels[batch.tokens() - 2] = 17;
  const auto logits = [&](const Batch& b) {
    const Document document = document_of(config, b, 2, at::kDouble);
    return forward_mtp(config, weights, document, forward_document(config, weights, document, {}));
  };
  const at::Tensor moved = (logits(changed) - logits(batch)).abs().amax(1);
  CHECK(moved.narrow(0, 0, 2).count_nonzero().item<std::int64_t>() == 0);
  CHECK(moved[2].item<double>() > 1e-3);
  CHECK_THROWS_AS(run(tiny_dense(), weights_of(tiny_dense()), small_batch(tiny_dense()), {}, {.loss = "mtp"}),
                  InputError);
}

TEST_CASE("images without positions have those that follow from their grids") {
  const ModelConfig config = tiny_vl();
  const TensorMap weights = weights_of(config);
  Batch batch = make_batch_with_images(config);
  const at::Tensor got = run(config, weights, batch, {}, {.gradients = false}).at("logits");
  batch.position_ids = {0, 0, 2, 3, 3, 3, 3, 5, 6, 7, 8, 0, 0, 0, 2, 3, 0, 0, 2, 3, 3, 4, 4, 5,
                        6, 7, 8, 0, 0, 1, 2, 3, 0, 1, 2, 3, 4, 3, 4, 5, 6, 7, 8, 0, 0, 0, 2, 3};
  CHECK(at::equal(run(config, weights, batch, {}, {.gradients = false}).at("logits"), got));
  batch.position_ids.clear();
  // An image's features stand in its own document alone.
  batch.images.pixels.back() += 1;
  const at::Tensor moved = run(config, weights, batch, {}, {.gradients = false}).at("logits");
  CHECK(at::equal(moved.narrow(0, 0, 12), got.narrow(0, 0, 12)));
  CHECK(difference(moved.narrow(0, 12, 4), got.narrow(0, 12, 4)) > 1e-6);
}

TEST_CASE("without images a tower's gradients are exactly zero") {
  const ModelConfig config = tiny_vl();
  Batch batch = make_batch(config, {5, 3}, {2}, {1});
  for (std::size_t t = 0; t < batch.token_ids.size(); ++t) batch.token_ids[t] %= 61;
  for (std::size_t t = 0; t + 1 < batch.token_ids.size(); ++t)
    if (batch.labels[t] != kIgnoreLabel) batch.labels[t] = batch.token_ids[t + 1];
  const TensorMap results = run(config, weights_of(config), batch, {}, {});
  for (const ParameterInfo& p : parameters_of(config))
    if (p.name.rfind("model.visual.", 0) == 0)
      CHECK(results.at("grads/" + p.name).count_nonzero().item<std::int64_t>() == 0);
}

TEST_CASE("without a valid label the loss is 0 and every gradient exactly zero") {
  const ModelConfig config = GENERATE(from_range(kModels));
  Batch batch = make_batch(config, {4, 1, 3}, {2, 1}, {1, 1});
  batch.labels.assign(batch.labels.size(), kIgnoreLabel);
  const RunOptions options{.loss = GENERATE("token_mean", "sequence_mean", "micro_batch_mean")};
  const TensorMap results = run(config, weights_of(config), batch, {}, options);

  for (const char* policy : kLossPolicies) {
    CHECK(results.at(std::string("loss/") + policy).item<double>() == 0);
  }
  CHECK(results.at("grad_norm").item<double>() == 0);
  for (const ParameterInfo& p : parameters_of(config)) {
    const at::Tensor gradient = results.at("grads/" + p.name);
    CHECK(gradient.sizes() == at::IntArrayRef(p.shape));
    CHECK(gradient.count_nonzero().item<std::int64_t>() == 0);
  }
}

TEST_CASE("an expert that no token reaches has a gradient of zeros, and decay alone moves it") {
  // Router rows r, -r, 0: with one expert per token the third is never the largest.
  ModelConfig config = tiny_moe();
  config.num_experts = 3;
  config.num_experts_per_tok = 1;
  TensorMap weights = weights_of(config);
  const std::string mlp = "model.layers.0.mlp.";
  const at::Tensor row = weights.at(mlp + "gate.weight").narrow(0, 0, 1);
  weights[mlp + "gate.weight"] = at::cat({row, -row, at::zeros_like(row)});
  const TrainSpec train;
  const TensorMap results = run(config, weights, make_batch(config, {9}, {1}, {1}), train, {.steps = 1});

  for (const char* name : {"experts.gate_up_proj", "experts.down_proj"}) {
    const at::Tensor gradient = results.at("grads/" + mlp + name);
    CHECK(gradient[2].count_nonzero().item<std::int64_t>() == 0);
    CHECK(gradient.narrow(0, 0, 2).count_nonzero().item<std::int64_t>() > 0);
    CHECK(difference(results.at("step1/weights/" + mlp + name)[2],
                     weights.at(mlp + name)[2] * (1 - train.lr * train.weight_decay)) <= 1e-15);
  }
}

TEST_CASE("gradients follow the policy that was asked for") {
  const ModelConfig config = tiny_dense();
  const TensorMap weights = weights_of(config);
  const Batch batch = small_batch(config);
  const double valid =
      run(config, weights, batch, {}, {.gradients = false}).at("denominators/token_mean").item<double>();
  const TensorMap mean = run(config, weights, batch, {}, {});
  const TensorMap sum = run(config, weights, batch, {}, {.loss = "sum"});
  const TensorMap by_document = run(config, weights, batch, {}, {.loss = "sequence_mean"});

  CHECK(valid == 11);
  CHECK(difference(sum.at("loss/sum"), mean.at("loss/token_mean") * valid) <= 1e-14);
  CHECK(difference(sum.at("grad_norm"), mean.at("grad_norm") * valid) <= 1e-13);
  CHECK(difference(by_document.at("grads/lm_head.weight"), mean.at("grads/lm_head.weight")) > 1e-3);
  CHECK_THROWS_AS(run(config, weights, batch, {}, {.loss = "mean"}), InputError);
}

TEST_CASE("positions of one's own are used, on all three axes") {
  ModelConfig config = tiny_dense();
  config.rope_theta = 10;  // so that the slowest pair turns visibly
  const TensorMap weights = weights_of(config);
  Batch batch = make_batch(config, {4, 3}, {2}, {1});
  const at::Tensor want = run(config, weights, batch, {}, {.gradients = false}).at("logits");

  batch.position_ids = {0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 0, 1, 2};
  CHECK(at::equal(run(config, weights, batch, {}, {.gradients = false}).at("logits"), want));
  // Attention sees differences of positions only: a document may start anywhere.
  for (std::size_t i : {4, 5, 6, 11, 12, 13, 18, 19, 20}) batch.position_ids[i] += 100;
  CHECK(difference(run(config, weights, batch, {}, {.gradients = false}).at("logits"), want) <= 1e-12);
  for (std::size_t axis = 0; axis < 3; ++axis) {
    Batch moved = batch;
    moved.position_ids[7 * axis + 3] += 1;
    CHECK(difference(run(config, weights, moved, {}, {.gradients = false}).at("logits"), want) > 1e-6);
  }
}

TEST_CASE("tied embeddings receive the gradients of both ends") {
  const ModelConfig untied = tiny_dense(), tied = tiny_tied();
  TensorMap weights = weights_of(untied);
  const std::string table = "model.embed_tokens.weight", head = "lm_head.weight";
  weights[head] = weights.at(table);
  const Batch batch = small_batch(untied);
  const TensorMap want = run(untied, weights, batch, {}, {});
  weights.erase(head);
  const TensorMap got = run(tied, weights, batch, {}, {.steps = 1});

  CHECK(at::equal(got.at("logits"), want.at("logits")));
  CHECK(difference(got.at("grads/" + table), want.at("grads/" + table) + want.at("grads/" + head)) <= 1e-13);
  CHECK(got.count("grads/" + head) == 0);
  CHECK(got.count("step1/weights/" + head) == 0);
}

TEST_CASE("activations add up to the logits") {
  const ModelConfig config = GENERATE(from_range(kModels));
  const TensorMap weights = weights_of(config);
  const Batch batch = small_batch(config);
  const TensorMap results = run(config, weights, batch, {}, {.gradients = false, .activations = true});

  at::Tensor residual = results.at("activations/embed");
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string layer = "activations/layers." + std::to_string(i);
    residual = residual + results.at(layer + ".mixer") + results.at(layer + ".ffn");
  }
  const at::Tensor rms = (residual.square().mean(-1, true) + config.rms_norm_eps).sqrt();
  const at::Tensor normed = residual / rms * (1 + weights.at("model.norm.weight"));
  CHECK(normed.sizes() == at::IntArrayRef({batch.tokens(), config.hidden_size}));
  CHECK(difference(results.at("activations/norm"), normed) <= 1e-14);
  CHECK(difference(results.at("logits"), at::linear(normed, weights.at("lm_head.weight"))) <= 1e-14);
}

TEST_CASE("float32 weights give float32 results near those of float64") {
  const ModelConfig config = tiny_dense();
  TensorMap weights = weights_of(config);
  const Batch batch = small_batch(config);
  const TensorMap want = run(config, weights, batch, {}, {.steps = 2});
  for (auto& [name, weight] : weights) weight = weight.to(at::kFloat);
  const TensorMap got = run(config, weights, batch, {}, {.steps = 2});

  REQUIRE(got.size() == want.size());
  for (const auto& [name, value] : got) {
    INFO(name);
    CHECK((value.scalar_type() == at::kFloat) ==
          (name.rfind("denominators/", 0) != 0 && name != "grad_norm"));
  }
  CHECK(difference(got.at("logits").to(at::kDouble), want.at("logits")) <= 1e-5);
  CHECK(difference(got.at("grad_norm").to(at::kDouble), want.at("grad_norm")) <= 1e-4);
}

TEST_CASE("run leaves the weights it was given alone") {
  const ModelConfig config = tiny_dense();
  const TensorMap weights = weights_of(config);
  run(config, weights, small_batch(config), {}, {.steps = 2});

  const TensorMap fresh = weights_of(config);
  for (const auto& [name, weight] : weights) {
    CHECK(at::equal(weight, fresh.at(name)));
    CHECK(!weight.requires_grad());
  }
}

TEST_CASE("wrong weights and batches are refused by name") {
  const ModelConfig config = tiny_dense();
  const TensorMap right = weights_of(config);
  const Batch batch = small_batch(config);
  const std::string name = "model.norm.weight";
  const auto refused = [&](const TensorMap& weights, const std::string& why) {
    CHECK_THROWS_WITH(run(config, weights, batch, {}, {}), Catch::Contains(name) && Catch::Contains(why));
  };

  TensorMap wrong = right;
  wrong.erase(name);
  refused(wrong, "missing");
  wrong[name] = at::zeros({7}, at::kDouble);
  refused(wrong, "[7], expected [24]");
  wrong[name] = right.at(name).to(at::kFloat);
  refused(wrong, "float64");
  wrong = right;
  wrong[name + "s"] = right.at(name);
  refused(wrong, "no such weight");

  Batch outside = batch;
  outside.token_ids[3] = config.vocab_size;
  CHECK_THROWS_AS(run(config, right, outside, {}, {}), InputError);
}

TEST_CASE("tensors cross to LibTorch and back bit by bit") {
  const HostTensor host = HostTensor::from(DType::float64, {2, 3}, std::vector<double>{1, 2, 3, 4, 5, 6});

  const HostTensor back = to_host(to_tensor(host.view()).t().t());
  CHECK(back.shape == host.shape);
  CHECK((back.bytes == host.bytes));
  CHECK(to_host(to_tensor(host.view()).t()).as<double>()[1] == 4);
  CHECK(to_host(at::zeros({0, 3}, at::kBFloat16)).shape == Shape{0, 3});
  CHECK(to_host(at::scalar_tensor(7, at::kLong)).shape == Shape{});
  CHECK_THROWS_AS(dtype_of(at::kComplexDouble), InputError);
}

}  // namespace meshparity::reference::run_test

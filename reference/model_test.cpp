// Proves the whole model against the oracle: logits of a document, and the loss's slope along a random
// direction in every parameter, by dual numbers where the reference uses its backward.
#include "reference/model.h"

#include <catch2/catch.hpp>

#include "reference/host_tensor.h"
#include "reference/oracle/cross_entropy.h"
#include "reference/oracle/model.h"
#include "reference/test_models.h"

namespace meshparity::reference::model_test {
namespace {

// An odd stack: attention first and last, as many key heads as value heads, one query head per key-value
// head, two taps, three experts per token, and a rotation of the whole head.
ModelConfig odd_moe() {
  ModelConfig config = tiny_moe();
  config.name = "odd moe";
  config.num_hidden_layers = 3;
  config.full_attention = {true, false, true};
  config.num_attention_heads = 3;
  config.num_key_value_heads = 3;
  config.head_dim = 8;
  config.rotary_dim = 8;
  config.mrope_section = {2, 1, 1};
  config.linear_num_key_heads = 3;
  config.linear_num_value_heads = 3;
  config.linear_conv_kernel_dim = 2;
  config.num_experts_per_tok = 3;
  return config;
}

const std::vector<ModelConfig> kModels = {tiny_dense(), tiny_moe(), tiny_tied(), odd_moe(), tiny_vl()};

// Of text models documents of 7, 1 and 3 tokens with positions like those of an image among text.
Batch test_batch(const ModelConfig& config) {
  if (config.has_vision()) {
    Batch batch = make_batch_with_images(config);
    // Those of the images, and 100 later in the last document.
    batch.position_ids = {0, 0, 2, 3, 3, 3, 3, 5, 6, 7, 8, 0, 100, 100, 102, 103,
                          0, 0, 2, 3, 3, 4, 4, 5, 6, 7, 8, 0, 100, 101, 102, 103,
                          0, 1, 2, 3, 4, 3, 4, 5, 6, 7, 8, 0, 100, 100, 102, 103};
    return batch;
  }
  Batch batch = make_batch(config, {7, 1, 3}, {2, 1}, {2});
  batch.labels[1] = kIgnoreLabel;
  batch.position_ids = {0, 1, 2, 2, 2, 2, 4, 0, 5, 6, 7, 0, 1, 2, 2, 3, 3,
                        4, 9, 5, 6, 7, 0, 1, 2, 3, 2, 3, 4, 2, 5, 6, 7};
  return batch;
}

struct PlainDocument {
  std::vector<std::int64_t> ids, positions;
  oracle::Sights sights;
};

VisionInput images_between(const VisionInput& input, std::size_t begin, std::size_t end, std::int64_t width) {
  VisionInput part, before;
  before.grids.assign(input.grids.begin(), input.grids.begin() + begin);
  part.grids.assign(input.grids.begin() + begin, input.grids.begin() + end);
  const auto first = input.pixels.begin() + before.patches() * width;
  part.pixels.assign(first, first + part.patches() * width);
  return part;
}

PlainDocument document(const ModelConfig& config, const Batch& batch, std::int64_t d) {
  const Range tokens = batch.document(d);
  PlainDocument result{
      {batch.token_ids.begin() + tokens.begin, batch.token_ids.begin() + tokens.end}, {}, {}};
  const std::int64_t width = config.vision.patch_width();
  if (!batch.images.empty() && d == 0)
    result.sights = {images_between(batch.images, 0, 2, width), batch.videos};
  if (!batch.images.empty() && d == 2) result.sights = {images_between(batch.images, 2, 3, width), {}};
  for (std::int64_t axis = 0; axis < 3; ++axis) {
    const auto begin = batch.position_ids.begin() + axis * batch.tokens();
    result.positions.insert(result.positions.end(), begin + tokens.begin, begin + tokens.end);
  }
  return result;
}

// token_mean of the batch by the oracle.
oracle::Dual oracle_loss(const ModelConfig& config, const oracle::Weights<oracle::Dual>& weights,
                         const Batch& batch) {
  oracle::Dual sum = 0;
  double valid = 0;
  for (std::int64_t d = 0; d < batch.documents(); ++d) {
    const auto [ids, positions, sights] = document(config, batch, d);
    const oracle::Matrix<oracle::Dual> logits = oracle::forward(config, weights, ids, positions, sights);
    for (Eigen::Index t = 0; t < logits.rows(); ++t) {
      const std::int64_t label = batch.labels[batch.document(d).begin + t];
      if (label == kIgnoreLabel) continue;
      sum -= oracle::label_logprob<oracle::Dual>(logits.row(t).transpose(), label);
      valid += 1;
    }
  }
  return sum / valid;
}

}  // namespace

TEST_CASE("logits of the reference are the oracle's") {
  const ModelConfig config = GENERATE(from_range(kModels));
  const std::map<std::string, HostTensor> weights = test_weights(config);
  const Batch batch = test_batch(config);
  const at::Tensor got = run(config, to_tensors(weights), batch, {}, {.gradients = false}).at("logits");

  for (std::int64_t d = 0; d < batch.documents(); ++d) {
    const Range tokens = batch.document(d);
    const auto [ids, positions, sights] = document(config, batch, d);
    const oracle::Matrix<double> want = oracle::forward(config, weights, ids, positions, sights);
    const at::Tensor part = got.narrow(0, tokens.begin, tokens.size()).contiguous();
    const oracle::Matrix<double> tried =
        Eigen::Map<const oracle::Matrix<double>>(part.const_data_ptr<double>(), want.rows(), want.cols());
    INFO(config.name << ", document " << d);
    CHECK((tried - want).norm() <= 1e-13 * want.norm());
  }
}

TEST_CASE("every parameter's gradient is the oracle's slope") {
  const ModelConfig config = GENERATE(from_range(kModels));
  const std::map<std::string, HostTensor> weights = test_weights(config);
  const Batch batch = test_batch(config);
  const TensorMap results = run(config, to_tensors(weights), batch, {}, {});
  const double grad_norm = results.at("grad_norm").item<double>();
  oracle::Weights<oracle::Dual> duals = oracle::plain_weights<oracle::Dual>(config, weights);

  for (auto& [name, dual] : duals) {
    const at::Tensor gradient = results.at("grads/" + name);
    const std::vector<double> direction = normals("direction/" + name, dual.size());
    for (Eigen::Index i = 0; i < dual.size(); ++i) dual.data()[i].slope = direction[i];
    const oracle::Dual want = oracle_loss(config, duals, batch);
    for (Eigen::Index i = 0; i < dual.size(); ++i) dual.data()[i].slope = 0;

    const double got = (gradient.flatten() * at::tensor(direction, at::kDouble)).sum().item<double>();
    const double scale = std::max(gradient.norm().item<double>(), 1e-3 * grad_norm);
    INFO(config.name << " " << name);
    // A random direction shows a gradient's error of norm e as about e.
    CHECK(std::abs(got - want.slope) / scale <= 1e-11);
    CHECK(results.at("loss/token_mean").item<double>() == Approx(want.value).epsilon(1e-13));
  }
}

}  // namespace meshparity::reference::model_test

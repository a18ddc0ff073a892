// Small models, weights and batches that the tests of this folder share. Weights are chosen so that mistakes
// show: norm weights are not zero, decays reach from strong to weak, no two convolution taps agree.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/generator.h"
#include "harness/types/model_config.h"
#include "harness/types/tensor.h"

namespace meshparity::reference {

// GatedDeltaNet, GatedDeltaNet, GatedDeltaNet, attention, GatedDeltaNet, as the packaged model tiny-dense.
inline ModelConfig tiny_dense() {
  ModelConfig c;
  c.name = "tiny-dense";
  c.vocab_size = 61;
  c.hidden_size = 24;
  c.num_hidden_layers = 5;
  c.num_attention_heads = 8;
  c.num_key_value_heads = 2;
  c.head_dim = 24;
  c.intermediate_size = 40;
  c.linear_num_key_heads = 4;
  c.linear_num_value_heads = 12;
  c.linear_key_head_dim = 6;
  c.linear_value_head_dim = 4;
  c.rotary_dim = 6;
  c.mrope_section = {1, 1, 1};
  c.full_attention = {false, false, false, true, false};
  return c;
}

// The head is the embedding.
inline ModelConfig tiny_tied() {
  ModelConfig c = tiny_dense();
  c.name = "tiny-tied";
  c.tie_word_embeddings = true;
  return c;
}

inline ModelConfig tiny_moe() {
  ModelConfig c = tiny_dense();
  c.name = "tiny-moe";
  c.num_attention_heads = 6;
  c.num_key_value_heads = 1;
  c.linear_num_key_heads = 6;
  c.intermediate_size = 0;
  c.num_experts = 12;
  c.num_experts_per_tok = 2;
  c.moe_intermediate_size = 8;
  c.shared_expert_intermediate_size = 12;
  return c;
}

// A dense model with a vision tower of two blocks and the layer of multi-token prediction.
inline ModelConfig tiny_vl() {
  ModelConfig c = tiny_dense();
  c.name = "tiny-vl";
  c.vocab_size = 67;
  c.vision.depth = 2;
  c.vision.hidden_size = 16;
  c.vision.num_heads = 2;
  c.vision.intermediate_size = 10;
  c.vision.patch_size = 2;
  c.vision.out_hidden_size = c.hidden_size;
  c.vision.num_position_embeddings = 9;
  c.image_token_id = 61, c.video_token_id = 62, c.vision_start_token_id = 63, c.vision_end_token_id = 64;
  c.mtp_num_hidden_layers = 1;
  return c;
}

// `count` numbers drawn from N(0, scale^2), the same for the same name.
inline std::vector<double> normals(const std::string& name, std::int64_t count, double scale = 1.0) {
  const Generator generator(3, name);
  std::vector<double> values(count);
  for (std::int64_t i = 0; i < count; ++i) values[i] = scale * generator.normal(i);
  return values;
}

inline std::map<std::string, HostTensor> test_weights(const ModelConfig& config) {
  std::map<std::string, HostTensor> weights;
  for (const ParameterInfo& p : parameters_of(config)) {
    const auto ends_with = [&](const std::string& end) { return p.name.ends_with(end); };
    const bool vector = p.shape.size() == 1 || ends_with("conv1d.weight");
    const double scale = vector ? 0.4 : 1.0 / std::sqrt(static_cast<double>(p.shape.back()));
    std::vector<double> values =
        normals(p.name, shape_numel(p.shape), ends_with("embed_tokens.weight") ? 1.0 : scale);
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (ends_with("A_log"))
        values[i] = -5.0 + 6.0 * static_cast<double>(i) / static_cast<double>(values.size());
      if (ends_with("linear_attn.norm.weight")) values[i] += 1.0;
    }
    weights[p.name] = HostTensor::from(DType::float64, p.shape, values);
  }
  return weights;
}

// Documents of the given lengths; row_sizes in documents, micro_batch_sizes in rows. Labels are the next
// tokens.
inline Batch make_batch(const ModelConfig& config, const std::vector<std::int64_t>& document_sizes,
                        const std::vector<std::int64_t>& row_sizes,
                        const std::vector<std::int64_t>& micro_batch_sizes) {
  const auto offsets = [](const std::vector<std::int64_t>& sizes) {
    std::vector<std::int64_t> result = {0};
    for (std::int64_t size : sizes) result.push_back(result.back() + size);
    return result;
  };
  Batch batch;
  batch.name = "test batch";
  batch.document_offsets = offsets(document_sizes);
  batch.row_offsets = offsets(row_sizes);
  batch.micro_batch_offsets = offsets(micro_batch_sizes);
  const Generator generator(5, "token_ids");
  for (std::int64_t i = 0; i < batch.document_offsets.back(); ++i) {
    batch.token_ids.push_back(generator.below(i, config.vocab_size));
  }
  for (std::int64_t d = 0; d < batch.documents(); ++d) {
    const Range document = batch.document(d);
    for (std::int64_t t = document.begin; t < document.end; ++t) {
      batch.labels.push_back(t + 1 < document.end ? batch.token_ids[t + 1] : kIgnoreLabel);
    }
  }
  return batch;
}

// A document of two images and a video of two frames, one of a single word, and one that begins with an
// image.
inline Batch make_batch_with_images(const ModelConfig& config) {
  Batch batch = make_batch(config, {11, 1, 4}, {2, 1}, {2});
  batch.token_ids = {61, 61, 5, 61, 61, 61, 61, 62, 6, 62, 7, 9, 61, 61, 3, 4};
  for (std::int64_t t = 0; t + 1 < batch.tokens(); ++t)
    if (batch.labels[t] != kIgnoreLabel) batch.labels[t] = batch.token_ids[t + 1];
  const auto sight = [&](const char* name, std::vector<Grid> grids) {
    VisionInput input;
    input.grids = std::move(grids);
    input.pixels = normals(name, input.patches() * config.vision.patch_width(), 0.5);
    return input;
  };
  batch.images = sight("pixels", {{1, 2, 4}, {1, 4, 4}, {1, 4, 2}});
  batch.videos = sight("video pixels", {{2, 2, 2}});
  return batch;
}

}  // namespace meshparity::reference

// The fields of a Qwen3.5 config.json that decide its mathematics, and the parameters it has.
// Parsing stands in scenarios/model_loader.h; names are Hugging Face checkpoint names of the text class
// (model.embed_tokens.weight, model.layers.N..., lm_head.weight), and for the parts that a multimodal
// checkpoint has besides, model.visual.* and mtp.* (docs/decisions/0005).
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "harness/types/tensor.h"

namespace meshparity {

// The vision tower: a transformer over image patches whose merged outputs replace the embeddings of
// placeholder tokens. Sizes in elements, patches and pixels; depth 0: the model has none.
struct VisionConfig {
  std::int64_t depth = 0;
  std::int64_t hidden_size = 0;
  std::int64_t num_heads = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t in_channels = 3;
  std::int64_t patch_size = 0;               // side, in pixels
  std::int64_t temporal_patch_size = 2;      // frames per patch
  std::int64_t spatial_merge_size = 2;       // patches per side of what becomes one token
  std::int64_t out_hidden_size = 0;          // the text model's hidden_size
  std::int64_t num_position_embeddings = 0;  // a square number

  std::int64_t head_dim() const { return num_heads > 0 ? hidden_size / num_heads : 0; }
  // Elements of one patch: (channel, frame, row, column).
  std::int64_t patch_width() const { return in_channels * temporal_patch_size * patch_size * patch_size; }
  // Patches that become one token, and the width the merger takes.
  std::int64_t merged_patches() const { return spatial_merge_size * spatial_merge_size; }
  std::int64_t merged_width() const { return merged_patches() * hidden_size; }
};

struct ModelConfig {
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t intermediate_size = 0;  // dense FFN; 0 for MoE
  std::int64_t num_experts = 0;        // 0 for dense
  std::int64_t num_experts_per_tok = 0;
  std::int64_t moe_intermediate_size = 0;
  std::int64_t shared_expert_intermediate_size = 0;
  double router_aux_loss_coef = 0.0;
  std::int64_t linear_num_key_heads = 0;
  std::int64_t linear_num_value_heads = 0;
  std::int64_t linear_key_head_dim = 0;
  std::int64_t linear_value_head_dim = 0;
  std::int64_t linear_conv_kernel_dim = 4;
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;  // decides generated weights alone (scenarios/initial_weights.h)
  double rope_theta = 1e7;
  std::int64_t rotary_dim = 0;              // head_dim * partial_rotary_factor
  std::vector<std::int64_t> mrope_section;  // sums to rotary_dim / 2
  bool tie_word_embeddings = false;
  std::vector<bool> full_attention;  // per layer: true = softmax attention, false = GatedDeltaNet
  VisionConfig vision;               // multimodal models only
  std::int64_t image_token_id = -1, video_token_id = -1, vision_start_token_id = -1, vision_end_token_id = -1;
  std::int64_t mtp_num_hidden_layers = 0;  // 0 or 1: a layer that predicts the token after the next
  std::string name;                        // how the user named it
  std::string json;                        // the config.json text it was read from

  bool is_moe() const { return num_experts > 0; }
  bool has_vision() const { return vision.depth > 0; }
  // Ids below this are text: of a multimodal model those below its four special ones.
  std::int64_t text_vocabulary() const {
    return has_vision() ? std::min(std::min(image_token_id, video_token_id),
                                   std::min(vision_start_token_id, vision_end_token_id))
                        : vocab_size;
  }
  std::int64_t gdn_key_width() const { return linear_num_key_heads * linear_key_head_dim; }
  std::int64_t gdn_value_width() const { return linear_num_value_heads * linear_value_head_dim; }
  std::int64_t gdn_conv_width() const { return 2 * gdn_key_width() + gdn_value_width(); }
};

struct ParameterInfo {
  std::string name;
  Shape shape;
};

// Every parameter of the model: embedding, layers, final norm, head, then model.visual.* of a multimodal
// model and mtp.* where mtp_num_hidden_layers is 1. With tied embeddings lm_head.weight is absent. Experts
// are fused (experts.gate_up_proj [E,2F,D], down_proj [E,D,F]).
std::vector<ParameterInfo> parameters_of(const ModelConfig& config);

// AdamW decays tensors with two or more dimensions only (design, "Train step"): never norms, A_log, dt_bias.
inline bool decays(const Shape& shape) {
  return shape.size() >= 2;
}

}  // namespace meshparity

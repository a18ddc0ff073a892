#include "scenarios/shape_model.h"

#include <cmath>

#include "harness/types/model_shape.h"
#include "scenarios/fields.h"
#include "scenarios/load.h"

namespace meshparity::scenarios {
namespace {

// The factor that gives this rotary width although the library truncates its product with head_dim.
double rotary_factor(std::int64_t rope, std::int64_t head_dim) {
  const double width = static_cast<double>(head_dim);
  double factor = static_cast<double>(rope) / width;
  while (static_cast<std::int64_t>(width * factor) < rope) factor = std::nextafter(factor, 2.0);
  return factor;
}

Json config_of_shape(const ModelShape& s) {
  Json types = Json::array();
  for (const char letter : s.layers) types.push_back(letter == 'a' ? "full_attention" : "linear_attention");
  Json config = {{"model_type", s.is_moe() ? "qwen3_5_moe_text" : "qwen3_5_text"},
                 {"vocab_size", s.vocab},
                 {"hidden_size", s.hidden},
                 {"num_hidden_layers", s.layers.size()},
                 {"layer_types", types},
                 {"num_attention_heads", s.heads},
                 {"num_key_value_heads", s.kv_heads},
                 {"head_dim", s.head_dim},
                 {"linear_num_key_heads", s.gdn_key_heads},
                 {"linear_num_value_heads", s.gdn_value_heads},
                 {"linear_key_head_dim", s.gdn_key_dim},
                 {"linear_value_head_dim", s.gdn_value_dim},
                 {"linear_conv_kernel_dim", s.conv},
                 {"tie_word_embeddings", s.tied},
                 {"rope_parameters",
                  {{"rope_type", "default"},
                   {"rope_theta", 1e7},
                   {"partial_rotary_factor", rotary_factor(s.rope, s.head_dim)}}}};
  if (s.is_moe())
    config.update({{"num_experts", s.experts},
                   {"num_experts_per_tok", s.top_k},
                   {"moe_intermediate_size", s.expert_width},
                   {"shared_expert_intermediate_size", s.shared}});
  else
    config["intermediate_size"] = s.ffn;
  if (s.mtp) config["mtp_num_hidden_layers"] = 1;
  return config;
}

// Around the text model a tower of patches of 2 x 2 pixels, two pictures deep, in one colour.
Json multimodal_config_of_shape(const ModelShape& s) {
  const std::int64_t width = s.vision_heads * s.vision_head_dim;
  return {{"model_type", s.is_moe() ? "qwen3_5_moe" : "qwen3_5"},
          {"text_config", config_of_shape(s)},
          {"tie_word_embeddings", s.tied},
          {"vision_start_token_id", s.vocab - 4},
          {"vision_end_token_id", s.vocab - 3},
          {"image_token_id", s.vocab - 2},
          {"video_token_id", s.vocab - 1},
          {"vision_config",
           {{"depth", s.vision_depth},
            {"hidden_size", width},
            {"num_heads", s.vision_heads},
            {"intermediate_size", s.vision_ffn},
            {"in_channels", 1},
            {"patch_size", 2},
            {"temporal_patch_size", 2},
            {"spatial_merge_size", 2},
            {"out_hidden_size", s.hidden},
            {"num_position_embeddings", s.grid * s.grid}}}};
}

}  // namespace

ModelConfig parse_model_shape(const std::string& text) {
  const ModelShape shape = ModelShape::parse(text);
  const Json json = shape.has_vision() ? multimodal_config_of_shape(shape) : config_of_shape(shape);
  ModelConfig config = parse_model_config(json.dump(), text);
  config.name = text;
  return config;
}

}  // namespace meshparity::scenarios

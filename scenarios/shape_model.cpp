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
  return config;
}

}  // namespace

ModelConfig parse_model_shape(const std::string& text) {
  ModelConfig config = parse_model_config(config_of_shape(ModelShape::parse(text)).dump(), text);
  config.name = text;
  return config;
}

}  // namespace meshparity::scenarios

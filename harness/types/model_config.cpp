#include "harness/types/model_config.h"

namespace meshparity {

std::vector<ParameterInfo> parameters_of(const ModelConfig& c) {
  std::vector<ParameterInfo> list;
  const auto add = [&](std::string name, Shape shape) {
    list.push_back({std::move(name), std::move(shape)});
  };
  const std::int64_t d = c.hidden_size;
  add("model.embed_tokens.weight", {c.vocab_size, d});
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    add(layer + "input_layernorm.weight", {d});
    if (c.full_attention[i]) {
      const std::string a = layer + "self_attn.";
      add(a + "q_proj.weight", {c.num_attention_heads * 2 * c.head_dim, d});
      add(a + "k_proj.weight", {c.num_key_value_heads * c.head_dim, d});
      add(a + "v_proj.weight", {c.num_key_value_heads * c.head_dim, d});
      add(a + "o_proj.weight", {d, c.num_attention_heads * c.head_dim});
      add(a + "q_norm.weight", {c.head_dim});
      add(a + "k_norm.weight", {c.head_dim});
    } else {
      const std::string g = layer + "linear_attn.";
      add(g + "in_proj_qkv.weight", {c.gdn_conv_width(), d});
      add(g + "in_proj_z.weight", {c.gdn_value_width(), d});
      add(g + "in_proj_b.weight", {c.linear_num_value_heads, d});
      add(g + "in_proj_a.weight", {c.linear_num_value_heads, d});
      add(g + "conv1d.weight", {c.gdn_conv_width(), 1, c.linear_conv_kernel_dim});
      add(g + "A_log", {c.linear_num_value_heads});
      add(g + "dt_bias", {c.linear_num_value_heads});
      add(g + "norm.weight", {c.linear_value_head_dim});
      add(g + "out_proj.weight", {d, c.gdn_value_width()});
    }
    add(layer + "post_attention_layernorm.weight", {d});
    const std::string m = layer + "mlp.";
    if (c.is_moe()) {
      add(m + "gate.weight", {c.num_experts, d});
      add(m + "experts.gate_up_proj", {c.num_experts, 2 * c.moe_intermediate_size, d});
      add(m + "experts.down_proj", {c.num_experts, d, c.moe_intermediate_size});
      add(m + "shared_expert.gate_proj.weight", {c.shared_expert_intermediate_size, d});
      add(m + "shared_expert.up_proj.weight", {c.shared_expert_intermediate_size, d});
      add(m + "shared_expert.down_proj.weight", {d, c.shared_expert_intermediate_size});
      add(m + "shared_expert_gate.weight", {1, d});
    } else {
      add(m + "gate_proj.weight", {c.intermediate_size, d});
      add(m + "up_proj.weight", {c.intermediate_size, d});
      add(m + "down_proj.weight", {d, c.intermediate_size});
    }
  }
  add("model.norm.weight", {d});
  if (!c.tie_word_embeddings) add("lm_head.weight", {c.vocab_size, d});
  return list;
}

}  // namespace meshparity

#include "harness/types/model_config.h"

namespace meshparity {
namespace {

using Parameters = std::vector<ParameterInfo>;

void add_attention(const ModelConfig& c, const std::string& a, Parameters& list) {
  const std::int64_t d = c.hidden_size;
  list.push_back({a + "q_proj.weight", {c.num_attention_heads * 2 * c.head_dim, d}});
  list.push_back({a + "k_proj.weight", {c.num_key_value_heads * c.head_dim, d}});
  list.push_back({a + "v_proj.weight", {c.num_key_value_heads * c.head_dim, d}});
  list.push_back({a + "o_proj.weight", {d, c.num_attention_heads * c.head_dim}});
  list.push_back({a + "q_norm.weight", {c.head_dim}});
  list.push_back({a + "k_norm.weight", {c.head_dim}});
}

void add_delta_net(const ModelConfig& c, const std::string& g, Parameters& list) {
  const std::int64_t d = c.hidden_size;
  list.push_back({g + "in_proj_qkv.weight", {c.gdn_conv_width(), d}});
  list.push_back({g + "in_proj_z.weight", {c.gdn_value_width(), d}});
  list.push_back({g + "in_proj_b.weight", {c.linear_num_value_heads, d}});
  list.push_back({g + "in_proj_a.weight", {c.linear_num_value_heads, d}});
  list.push_back({g + "conv1d.weight", {c.gdn_conv_width(), 1, c.linear_conv_kernel_dim}});
  list.push_back({g + "A_log", {c.linear_num_value_heads}});
  list.push_back({g + "dt_bias", {c.linear_num_value_heads}});
  list.push_back({g + "norm.weight", {c.linear_value_head_dim}});
  list.push_back({g + "out_proj.weight", {d, c.gdn_value_width()}});
}

void add_ffn(const ModelConfig& c, const std::string& m, Parameters& list) {
  const std::int64_t d = c.hidden_size;
  if (c.is_moe()) {
    list.push_back({m + "gate.weight", {c.num_experts, d}});
    list.push_back({m + "experts.gate_up_proj", {c.num_experts, 2 * c.moe_intermediate_size, d}});
    list.push_back({m + "experts.down_proj", {c.num_experts, d, c.moe_intermediate_size}});
    list.push_back({m + "shared_expert.gate_proj.weight", {c.shared_expert_intermediate_size, d}});
    list.push_back({m + "shared_expert.up_proj.weight", {c.shared_expert_intermediate_size, d}});
    list.push_back({m + "shared_expert.down_proj.weight", {d, c.shared_expert_intermediate_size}});
    list.push_back({m + "shared_expert_gate.weight", {1, d}});
  } else {
    list.push_back({m + "gate_proj.weight", {c.intermediate_size, d}});
    list.push_back({m + "up_proj.weight", {c.intermediate_size, d}});
    list.push_back({m + "down_proj.weight", {d, c.intermediate_size}});
  }
}

void add_layer(const ModelConfig& c, const std::string& layer, bool full_attention, Parameters& list) {
  list.push_back({layer + "input_layernorm.weight", {c.hidden_size}});
  if (full_attention)
    add_attention(c, layer + "self_attn.", list);
  else
    add_delta_net(c, layer + "linear_attn.", list);
  list.push_back({layer + "post_attention_layernorm.weight", {c.hidden_size}});
  add_ffn(c, layer + "mlp.", list);
}

void add_vision(const VisionConfig& v, Parameters& list) {
  const std::int64_t d = v.hidden_size, f = v.intermediate_size, merged = v.merged_width();
  const auto add = [&](const std::string& name, Shape weight) {
    const Shape bias{weight[0]};
    list.push_back({"model.visual." + name + ".weight", std::move(weight)});
    list.push_back({"model.visual." + name + ".bias", bias});
  };
  add("patch_embed.proj", {d, v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size});
  list.push_back({"model.visual.pos_embed.weight", {v.num_position_embeddings, d}});
  for (std::int64_t i = 0; i < v.depth; ++i) {
    const std::string block = "blocks." + std::to_string(i) + ".";
    add(block + "norm1", {d});
    add(block + "norm2", {d});
    add(block + "attn.qkv", {3 * d, d});
    add(block + "attn.proj", {d, d});
    add(block + "mlp.linear_fc1", {f, d});
    add(block + "mlp.linear_fc2", {d, f});
  }
  add("merger.norm", {d});
  add("merger.linear_fc1", {merged, merged});
  add("merger.linear_fc2", {v.out_hidden_size, merged});
}

void add_mtp(const ModelConfig& c, Parameters& list) {
  const std::int64_t d = c.hidden_size;
  list.push_back({"mtp.fc.weight", {d, 2 * d}});
  list.push_back({"mtp.pre_fc_norm_embedding.weight", {d}});
  list.push_back({"mtp.pre_fc_norm_hidden.weight", {d}});
  list.push_back({"mtp.norm.weight", {d}});
  add_layer(c, "mtp.layers.0.", true, list);
}

}  // namespace

std::vector<ParameterInfo> parameters_of(const ModelConfig& c) {
  Parameters list;
  const std::int64_t d = c.hidden_size;
  list.push_back({"model.embed_tokens.weight", {c.vocab_size, d}});
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i)
    add_layer(c, "model.layers." + std::to_string(i) + ".", c.full_attention[i], list);
  list.push_back({"model.norm.weight", {d}});
  if (!c.tie_word_embeddings) list.push_back({"lm_head.weight", {c.vocab_size, d}});
  if (c.has_vision()) add_vision(c.vision, list);
  if (c.mtp_num_hidden_layers > 0) add_mtp(c, list);
  return list;
}

}  // namespace meshparity

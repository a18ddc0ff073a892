#include "reference/model.h"

#include "harness/types/error.h"
#include "reference/blocks/attention.h"
#include "reference/blocks/embedding.h"
#include "reference/blocks/feed_forward.h"
#include "reference/blocks/gated_delta_net.h"
#include "reference/blocks/moe.h"
#include "reference/blocks/rms_norm.h"
#include "reference/blocks/rope.h"

namespace meshparity::reference {
namespace {

AttentionWeights attention_weights(const TensorMap& w, const std::string& layer) {
  const std::string a = layer + "self_attn.";
  return {w.at(a + "q_proj.weight"), w.at(a + "k_proj.weight"), w.at(a + "v_proj.weight"),
          w.at(a + "o_proj.weight"), w.at(a + "q_norm.weight"), w.at(a + "k_norm.weight")};
}

GatedDeltaNetWeights gated_delta_net_weights(const TensorMap& w, const std::string& layer) {
  const std::string g = layer + "linear_attn.";
  return {w.at(g + "in_proj_qkv.weight"),
          w.at(g + "in_proj_z.weight"),
          w.at(g + "in_proj_b.weight"),
          w.at(g + "in_proj_a.weight"),
          w.at(g + "conv1d.weight"),
          w.at(g + "A_log"),
          w.at(g + "dt_bias"),
          w.at(g + "norm.weight"),
          w.at(g + "out_proj.weight")};
}

MoeWeights moe_weights(const TensorMap& w, const std::string& layer) {
  const std::string m = layer + "mlp.";
  return {w.at(m + "gate.weight"),
          w.at(m + "experts.gate_up_proj"),
          w.at(m + "experts.down_proj"),
          w.at(m + "shared_expert.gate_proj.weight"),
          w.at(m + "shared_expert.up_proj.weight"),
          w.at(m + "shared_expert.down_proj.weight"),
          w.at(m + "shared_expert_gate.weight")};
}

at::Tensor feed_forward(const ModelConfig& c, const TensorMap& w, const std::string& layer,
                        const at::Tensor& x) {
  if (c.is_moe()) return moe(x, moe_weights(w, layer), c.num_experts_per_tok);
  const std::string m = layer + "mlp.";
  return swiglu(x, w.at(m + "gate_proj.weight"), w.at(m + "up_proj.weight"), w.at(m + "down_proj.weight"));
}

}  // namespace

at::Tensor forward_document(const ModelConfig& c, const TensorMap& w, const at::Tensor& token_ids,
                            const at::Tensor& positions, const Notes& notes) {
  const auto note = [&](const std::string& name, const at::Tensor& value) {
    if (notes.activations) (*notes.activations)[name] = value.detach();
  };
  const at::Tensor& table = w.at("model.embed_tokens.weight");
  const RotaryTable rope =
      rotary_table(positions, c.rotary_dim, c.rope_theta, c.mrope_section, table.options());

  at::Tensor x = embed(token_ids, table);
  note("embed", x);
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string number = "layers." + std::to_string(i) + ".", layer = "model." + number;
    const at::Tensor before = rms_norm(x, w.at(layer + "input_layernorm.weight"), c.rms_norm_eps);
    const at::Tensor mixed =
        c.full_attention[i]
            ? attention(before, attention_weights(w, layer), rope, c.num_attention_heads,
                        c.num_key_value_heads, c.rms_norm_eps)
            : gated_delta_net(before, gated_delta_net_weights(w, layer), c.linear_num_key_heads,
                              c.linear_num_value_heads, c.rms_norm_eps);
    note(number + "mixer", mixed);
    x = x + mixed;
    const at::Tensor between = rms_norm(x, w.at(layer + "post_attention_layernorm.weight"), c.rms_norm_eps);
    const std::string router = layer + "mlp.gate.weight";
    if (notes.routes && c.is_moe())
      (*notes.routes)["layers." + std::to_string(i)] =
          route(between, w.at(router), c.num_experts_per_tok).experts;
    if (notes.router_logits && c.is_moe()) notes.router_logits->push_back(at::linear(between, w.at(router)));
    const at::Tensor fed = feed_forward(c, w, layer, between);
    note(number + "ffn", fed);
    x = x + fed;
  }
  x = rms_norm(x, w.at("model.norm.weight"), c.rms_norm_eps);
  note("norm", x);
  return output_head(x, c.tie_word_embeddings ? table : w.at("lm_head.weight"));
}

void check_weights(const ModelConfig& config, const TensorMap& weights) {
  const std::vector<ParameterInfo> parameters = parameters_of(config);
  const std::string model = config.name.empty() ? "model" : config.name;
  for (const ParameterInfo& p : parameters) {
    const auto found = weights.find(p.name);
    if (found == weights.end()) throw InputError(model, p.name, "weight is missing");
    const at::Tensor& weight = found->second;
    if (weight.sizes() != at::IntArrayRef(p.shape)) {
      throw InputError(model, p.name,
                       "shape " + shape_text(weight.sizes().vec()) + ", expected " + shape_text(p.shape));
    }
    const at::ScalarType type = weight.scalar_type(), first = weights.at(parameters[0].name).scalar_type();
    if (type != first || (type != at::kDouble && type != at::kFloat)) {
      throw InputError(
          model, p.name,
          std::string("dtype ") + at::toString(type) + ": the reference takes all float64 or all float32");
    }
  }
  if (weights.size() == parameters.size()) return;
  for (const auto& [name, weight] : weights) {
    bool known = false;
    for (const ParameterInfo& p : parameters) known = known || p.name == name;
    if (!known) throw InputError(model, name, "the model has no such weight");
  }
}

}  // namespace meshparity::reference

#include "reference/model.h"

#include "harness/types/error.h"
#include "reference/blocks/attention.h"
#include "reference/blocks/embedding.h"
#include "reference/blocks/feed_forward.h"
#include "reference/blocks/gated_delta_net.h"
#include "reference/blocks/moe.h"
#include "reference/blocks/mtp.h"
#include "reference/blocks/rms_norm.h"
#include "reference/blocks/rope.h"
#include "reference/layer_weights.h"

namespace meshparity::reference {
namespace {

at::Tensor feed_forward(const ModelConfig& c, const TensorMap& w, const std::string& layer,
                        const at::Tensor& x) {
  if (c.is_moe()) return moe(x, moe_weights(w, layer), c.num_experts_per_tok);
  const std::string m = layer + "mlp.";
  return swiglu(x, w.at(m + "gate_proj.weight"), w.at(m + "up_proj.weight"), w.at(m + "down_proj.weight"));
}

// What a decoder layer computes on its way: each [T, D].
struct LayerParts {
  at::Tensor mixed;    // by attention or GatedDeltaNet
  at::Tensor between;  // what the feed-forward and its router see
  at::Tensor fed;
  at::Tensor out;
};

LayerParts decoder_layer(const ModelConfig& c, const TensorMap& w, const std::string& layer,
                         bool full_attention, const RotaryTable& rope, const at::Tensor& x) {
  LayerParts parts;
  const at::Tensor before = rms_norm(x, w.at(layer + "input_layernorm.weight"), c.rms_norm_eps);
  parts.mixed = full_attention
                    ? attention(before, attention_weights(w, layer), rope, c.num_attention_heads,
                                c.num_key_value_heads, c.rms_norm_eps)
                    : gated_delta_net(before, gated_delta_net_weights(w, layer), c.linear_num_key_heads,
                                      c.linear_num_value_heads, c.rms_norm_eps);
  const at::Tensor sum = x + parts.mixed;
  parts.between = rms_norm(sum, w.at(layer + "post_attention_layernorm.weight"), c.rms_norm_eps);
  parts.fed = feed_forward(c, w, layer, parts.between);
  parts.out = sum + parts.fed;
  return parts;
}

// The layer of multi-token prediction on all but the last of these rows.
LayerParts mtp_layer(const ModelConfig& c, const TensorMap& w, const Document& document,
                     const at::Tensor& embeddings, const at::Tensor& hidden) {
  const MtpInputWeights input = {w.at("mtp.fc.weight"), w.at("mtp.pre_fc_norm_embedding.weight"),
                                 w.at("mtp.pre_fc_norm_hidden.weight")};
  const at::Tensor x = mtp_input(embeddings, hidden, input, c.rms_norm_eps);
  const RotaryTable rope = rope_of(c, w, document.positions.narrow(1, 0, x.size(0)));
  return decoder_layer(c, w, "mtp.layers.0.", /*full_attention=*/true, rope, x);
}

}  // namespace

Forward forward_document(const ModelConfig& c, const TensorMap& w, const Document& document,
                         const Notes& notes) {
  const auto note = [&](const std::string& name, const at::Tensor& value) {
    if (notes.activations) (*notes.activations)[name] = value.detach();
  };
  const RotaryTable rope = rope_of(c, w, document.positions);
  Forward forward;
  // Images, then videos: two calls of the tower, one activation.
  forward.embeddings = embed_document(c, w, document, [&](const std::string& name, const at::Tensor& value) {
    if (!notes.activations) return;
    at::Tensor& all = (*notes.activations)[name];
    all = all.defined() ? at::cat({all, value.detach()}) : value.detach();
  });
  note("embed", forward.embeddings);
  at::Tensor x = forward.embeddings;
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string number = "layers." + std::to_string(i), layer = "model." + number + ".";
    const LayerParts parts = decoder_layer(c, w, layer, c.full_attention[i], rope, x);
    note(number + ".mixer", parts.mixed);
    note(number + ".ffn", parts.fed);
    const std::string router = layer + "mlp.gate.weight";
    if (notes.routes && c.is_moe())
      (*notes.routes)[number] = route(parts.between, w.at(router), c.num_experts_per_tok).experts;
    if (notes.router_logits && c.is_moe())
      notes.router_logits->push_back(at::linear(parts.between, w.at(router)));
    x = parts.out;
  }
  forward.hidden = rms_norm(x, w.at("model.norm.weight"), c.rms_norm_eps);
  note("norm", forward.hidden);
  forward.logits = output_head(forward.hidden, head_of(c, w));
  return forward;
}

at::Tensor forward_mtp(const ModelConfig& c, const TensorMap& w, const Document& document,
                       const Forward& forward) {
  const at::Tensor y = mtp_layer(c, w, document, forward.embeddings, forward.hidden).out;
  return output_head(rms_norm(y, w.at("mtp.norm.weight"), c.rms_norm_eps), head_of(c, w));
}

at::Tensor mtp_routes(const ModelConfig& c, const TensorMap& w, const Document& document,
                      const Forward& forward, const at::Tensor& has_next) {
  const at::Tensor none = at::zeros_like(forward.hidden.narrow(0, 0, 1));
  const at::Tensor next = at::cat({forward.embeddings.slice(0, 1), none}) * has_next.unsqueeze(1);
  const LayerParts parts = mtp_layer(c, w, document, at::cat({none, next}), at::cat({forward.hidden, none}));
  return route(parts.between, w.at("mtp.layers.0.mlp.gate.weight"), c.num_experts_per_tok).experts;
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

#include "reference/rollout/sequence.h"

#include "reference/blocks/embedding.h"
#include "reference/blocks/feed_forward.h"
#include "reference/blocks/rms_norm.h"
#include "reference/layer_weights.h"

namespace meshparity::reference {
namespace {

at::Tensor cached_attention(const ModelConfig& c, const TensorMap& w, const std::string& layer,
                            const RotaryTable& rope, const at::Tensor& x, LayerCache& cache) {
  const AttentionWeights weights = attention_weights(w, layer);
  const AttentionInputs in =
      attention_inputs(x, weights, rope, c.num_attention_heads, c.num_key_value_heads, c.rms_norm_eps);
  cache.keys = at::cat({cache.keys, in.k});
  cache.values = at::cat({cache.values, in.v});
  return attention_output(causal_attention(in.q, cache.keys, cache.values), in.gate, weights);
}

at::Tensor cached_delta_net(const ModelConfig& c, const TensorMap& w, const std::string& layer,
                            const at::Tensor& x, LayerCache& cache) {
  const GatedDeltaNetWeights weights = gated_delta_net_weights(w, layer);
  const std::int64_t before = cache.conv_inputs.size(0);
  const at::Tensor window = at::cat({cache.conv_inputs, at::linear(x, weights.in_proj_qkv)});
  // The first rows see zeros in the place of what came before them; they are the last call's.
  const at::Tensor convolved = causal_conv_silu(window, weights.conv1d).slice(0, before);
  cache.conv_inputs = window.slice(0, x.size(0));
  const DeltaRuleInputs in =
      delta_rule_inputs(x, convolved, weights, c.linear_num_key_heads, c.linear_num_value_heads);
  const DeltaSteps steps = delta_steps(in.q, in.k, in.v, in.g, in.beta, cache.state);
  cache.state = steps.state;
  return gated_delta_output(steps.o, x, weights, c.rms_norm_eps);
}

at::Tensor fed(const ModelConfig& c, const TensorMap& w, std::int64_t i, const SequenceInputs& inputs,
               Range tokens, const at::Tensor& x, TensorMap& routes) {
  const std::string number = "layers." + std::to_string(i), mlp = "model." + number + ".mlp.";
  if (!c.is_moe())
    return swiglu(x, w.at(mlp + "gate_proj.weight"), w.at(mlp + "up_proj.weight"),
                  w.at(mlp + "down_proj.weight"));
  const MoeWeights weights = moe_weights(w, "model." + number + ".");
  const auto given = inputs.replayed.find(number);
  const Routing routing =
      given == inputs.replayed.end()
          ? route(x, weights.router, c.num_experts_per_tok)
          : route_to(x, weights.router, given->second.narrow(0, tokens.begin, tokens.size()));
  routes[number] = routing.experts;
  return moe(x, weights, routing);
}

}  // namespace

DeltaSteps delta_steps(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& g,
                       const at::Tensor& beta, at::Tensor state) {
  std::vector<at::Tensor> outputs;
  for (std::int64_t t = 0; t < q.size(0); ++t) {
    const at::Tensor key = k[t].unsqueeze(2);  // [H, K, 1]
    const at::Tensor decayed = g[t].exp().unsqueeze(1).unsqueeze(2) * state;
    const at::Tensor missing = v[t].unsqueeze(1) - at::matmul(key.transpose(1, 2), decayed);  // [H, 1, V]
    state = decayed + at::matmul(key, beta[t].unsqueeze(1).unsqueeze(2) * missing);
    outputs.push_back(at::matmul(q[t].unsqueeze(1), state).squeeze(1));
  }
  return {at::stack(outputs), state};
}

Cache empty_cache(const ModelConfig& c, const TensorMap& weights) {
  const at::TensorOptions options = weights.at("model.embed_tokens.weight").options();
  const auto none = [&](const std::vector<std::int64_t>& shape) { return at::zeros(shape, options); };
  Cache cache;
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    LayerCache layer;
    if (c.full_attention[i]) {
      layer.keys = layer.values = none({0, c.num_key_value_heads, c.head_dim});
    } else {
      layer.conv_inputs = none({c.linear_conv_kernel_dim - 1, c.gdn_conv_width()});
      layer.state = none({c.linear_num_value_heads, c.linear_key_head_dim, c.linear_value_head_dim});
    }
    cache.layers.push_back(layer);
  }
  return cache;
}

Decoded advance(const ModelConfig& c, const TensorMap& w, const SequenceInputs& inputs, Range tokens,
                Cache& cache) {
  TORCH_CHECK(tokens.begin == cache.tokens && tokens.size() > 0, "tokens ", tokens.begin, " to ", tokens.end,
              " do not follow the ", cache.tokens, " that the cache holds");
  const RotaryTable rope = rope_of(c, w, inputs.positions.narrow(1, tokens.begin, tokens.size()));
  Decoded decoded;
  at::Tensor x = inputs.embeddings.narrow(0, tokens.begin, tokens.size());
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const at::Tensor normed = rms_norm(x, w.at(layer + "input_layernorm.weight"), c.rms_norm_eps);
    x = x + (c.full_attention[i] ? cached_attention(c, w, layer, rope, normed, cache.layers[i])
                                 : cached_delta_net(c, w, layer, normed, cache.layers[i]));
    const at::Tensor between = rms_norm(x, w.at(layer + "post_attention_layernorm.weight"), c.rms_norm_eps);
    x = x + fed(c, w, i, inputs, tokens, between, decoded.routes);
  }
  cache.tokens = tokens.end;
  decoded.logits = output_head(rms_norm(x, w.at("model.norm.weight"), c.rms_norm_eps), head_of(c, w));
  return decoded;
}

}  // namespace meshparity::reference

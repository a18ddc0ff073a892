// Softmax attention, GatedDeltaNet and experts with the roundings between their steps, on ATen operators.
// Shapes as in impl/blocks/primitives.h.
#include <cmath>

#include "scenarios/policies/rounding.h"

namespace meshparity::policies {
namespace {

using at::Tensor;
using impl::PackedTokens;
using impl::Primitives;

Tensor attend_packed(const Tensor& q, const Tensor& k, const Tensor& v, const PackedTokens& tokens,
                     std::int64_t d, const Rounding& softmax) {
  impl::Tensors parts;
  for (const impl::AttentionBlock& b : tokens.attention)
    parts.push_back(attend(q.slice(0, b.begin, b.end), k.slice(0, b.key_begin, b.end),
                           v.slice(0, b.key_begin, b.end), b.bias, d, softmax));
  return at::cat(parts);
}

// The delta rule token by token, its state stored (rounded) after every `chunk` tokens of a document.
Tensor delta_rule_by_tokens(const Tensor& qk, const Tensor& v, const Tensor& g, const Tensor& beta,
                            const PackedTokens& tokens, std::int64_t key_dim, std::int64_t chunk,
                            const Rounding& stored) {
  const std::int64_t n = v.size(0), heads = g.size(1), value_dim = v.size(1) / heads;
  const std::int64_t key_heads = qk.size(1) / (2 * key_dim);
  const Tensor pairs =
      qk.reshape({n, 2, key_heads, key_dim}).repeat_interleave(heads / key_heads, 2);  // [n, 2, heads, K]
  const Tensor values = v.reshape({n, heads, value_dim});
  impl::Tensors out;
  Tensor state;
  std::int64_t since = 0;
  for (std::int64_t t = 0; t < n; ++t) {
    if (t == 0 || tokens.documents[t] != tokens.documents[t - 1]) {
      state = at::zeros({heads, key_dim, value_dim}, v.options());
      since = 0;
    }
    const Tensor query = pairs[t][0], key = pairs[t][1].unsqueeze(2);  // [heads, K], [heads, K, 1]
    const Tensor decayed = state * g[t].exp().view({heads, 1, 1});
    const Tensor change = values[t] - (decayed * key).sum(1);  // [heads, V]
    state = decayed + key * (beta[t].unsqueeze(1) * change).unsqueeze(1);
    out.push_back((state * query.unsqueeze(2)).sum(1).reshape({1, heads * value_dim}));
    if (++since % chunk == 0) state = stored(state);
  }
  return at::cat(out) / std::sqrt(double(key_dim));
}

Tensor run_experts(const Tensor& x, const impl::Routing& routing, const Tensor& gate_up, const Tensor& down,
                   const Rounding& act) {
  Tensor y = at::zeros_like(x);
  for (std::int64_t e = 0; e < down.size(0); ++e) {
    const Tensor chosen = routing.experts.eq(e).nonzero();  // [n, 2]: token, slot
    if (chosen.size(0) == 0) continue;
    const Tensor token = chosen.select(1, 0), slot = chosen.select(1, 1);
    const impl::Tensors both = act(at::linear(x.index_select(0, token), gate_up[e])).chunk(2, 1);
    const Tensor made = act(at::linear(act(at::silu(both[0]) * both[1]), down[e]));
    y = y.index_add(0, token, made * routing.weights.index({token, slot}).unsqueeze(1));
  }
  return act(y);
}

}  // namespace

Tensor attend(const Tensor& q, const Tensor& keys, const Tensor& values, const Tensor& bias, std::int64_t d,
              const Rounding& softmax) {
  const std::int64_t n = q.size(0), m = keys.size(0), heads = keys.size(1) / d,
                     group = q.size(1) / keys.size(1);
  const Tensor queries =
      q.reshape({n, heads, group, d}).permute({1, 2, 0, 3}) / std::sqrt(static_cast<double>(d));
  Tensor scores = at::matmul(queries, keys.reshape({m, heads, 1, d}).permute({1, 2, 3, 0}));
  if (bias.defined()) scores = scores + bias;
  const Tensor mixed =
      at::matmul(softmax(at::softmax(scores, -1)), values.reshape({m, heads, 1, d}).permute({1, 2, 0, 3}));
  return mixed.permute({2, 0, 1, 3}).reshape(q.sizes());
}

void plant_attention(const PrecisionPolicy& policy, Primitives& p) {
  const Rounding act(policy, Place::activations), cache(policy, Place::kv_cache),
      softmax(policy, Place::softmax), gates(policy, Place::output_gate), table(policy, Place::rope);
  p.rope = [act, table, right = p.rope](const Tensor& x, const PackedTokens& tokens) {
    if (!table.active()) return act(right(x, tokens));
    PackedTokens rounded = tokens;
    rounded.rope_cos = table(tokens.rope_cos), rounded.rope_sin = table(tokens.rope_sin);
    return act(right(x, rounded));
  };
  p.attention = [=, right = p.attention](const Tensor& q, const Tensor& k, const Tensor& v,
                                         const PackedTokens& tokens, std::int64_t head_dim) {
    if (tokens.tokens == 0 || !softmax.active()) return act(right(q, cache(k), cache(v), tokens, head_dim));
    return act(attend_packed(q, cache(k), cache(v), tokens, head_dim, softmax));
  };
  const auto gated = [act, gates](const Tensor& value, const Tensor& gate) {
    return act(value * gates(at::sigmoid(gate)));
  };
  p.output_gate = gated, p.shared_expert_gate = gated;
}

void plant_gated_delta_net(const PrecisionPolicy& policy, Primitives& p) {
  const Rounding act(policy, Place::activations), rate(policy, Place::decay_rate),
      decay(policy, Place::decay), state(policy, Place::delta_state);
  round_results(p.short_conv, act);
  p.delta_gates = [=](const Tensor& a, const Tensor& b, const Tensor& a_log, const Tensor& dt_bias) {
    return impl::Tensors{decay(-rate(a_log.exp()) * at::softplus(a + dt_bias)), act(at::sigmoid(b))};
  };
  p.delta_rule = [act, state, chunk = policy.chunk, right = p.delta_rule](
                     const Tensor& qk, const Tensor& v, const Tensor& g, const Tensor& beta,
                     const PackedTokens& tokens, std::int64_t key_dim) {
    if (v.size(0) == 0 || !state.active()) return act(right(qk, v, g, beta, tokens, key_dim));
    return act(delta_rule_by_tokens(qk, v, g, beta, tokens, key_dim, chunk, state));
  };
}

void plant_experts(const PrecisionPolicy& policy, Primitives& p) {
  const Rounding act(policy, Place::activations), weights(policy, Place::router_weights);
  p.route = [weights, right = p.route](const Tensor& logits, std::int64_t k) {
    impl::Routing routing = right(logits, k);
    routing.weights = weights(routing.weights);
    return routing;
  };
  p.experts_ffn = [act, right = p.experts_ffn](const Tensor& x, const impl::Routing& routing,
                                               const Tensor& gate_up, const Tensor& down) {
    return act.active() ? run_experts(x, routing, gate_up, down, act) : right(x, routing, gate_up, down);
  };
  round_result(p.combine, act);
}

}  // namespace meshparity::policies

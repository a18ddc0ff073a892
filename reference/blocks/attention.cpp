#include "reference/blocks/attention.h"

#include <cmath>
#include <limits>

#include "reference/blocks/rms_norm.h"

namespace meshparity::reference {

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const std::int64_t tokens = k.size(0), queries = q.size(0), group = q.size(1) / k.size(1);
  const at::Tensor q_htd = q.transpose(0, 1);
  const at::Tensor k_htd = k.repeat_interleave(group, 1).transpose(0, 1);
  const at::Tensor v_htd = v.repeat_interleave(group, 1).transpose(0, 1);
  const at::Tensor future =
      at::ones({queries, tokens}, q.options().dtype(at::kBool)).triu(1 + tokens - queries);
  at::Tensor scores_hqk =
      at::matmul(q_htd, k_htd.transpose(1, 2)) / std::sqrt(static_cast<double>(q.size(2)));
  scores_hqk = scores_hqk.masked_fill(future, -std::numeric_limits<double>::infinity());
  return at::matmul(at::softmax(scores_hqk, -1), v_htd).transpose(0, 1);
}

AttentionInputs attention_inputs(const at::Tensor& x, const AttentionWeights& weights,
                                 const RotaryTable& rope, std::int64_t heads, std::int64_t kv_heads,
                                 double eps) {
  const std::int64_t tokens = x.size(0), d = weights.q_norm.size(0);
  const at::Tensor query_and_gate = at::linear(x, weights.q_proj).view({tokens, heads, 2 * d});
  const at::Tensor q = query_and_gate.narrow(-1, 0, d);
  const at::Tensor k = at::linear(x, weights.k_proj).view({tokens, kv_heads, d});
  return {apply_rope(rms_norm(q, weights.q_norm, eps), rope),
          apply_rope(rms_norm(k, weights.k_norm, eps), rope),
          at::linear(x, weights.v_proj).view({tokens, kv_heads, d}), query_and_gate.narrow(-1, d, d)};
}

at::Tensor attention_output(const at::Tensor& y, const at::Tensor& gate, const AttentionWeights& weights) {
  return at::linear((y * at::sigmoid(gate)).reshape({y.size(0), -1}), weights.o_proj);
}

at::Tensor attention(const at::Tensor& x, const AttentionWeights& weights, const RotaryTable& rope,
                     std::int64_t heads, std::int64_t kv_heads, double eps) {
  const AttentionInputs in = attention_inputs(x, weights, rope, heads, kv_heads, eps);
  return attention_output(causal_attention(in.q, in.k, in.v), in.gate, weights);
}

}  // namespace meshparity::reference

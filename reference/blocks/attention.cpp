#include "reference/blocks/attention.h"

#include <cmath>
#include <limits>

#include "reference/blocks/rms_norm.h"

namespace meshparity::reference {

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const std::int64_t tokens = q.size(0), group = q.size(1) / k.size(1);
  const at::Tensor q_htd = q.transpose(0, 1);
  const at::Tensor k_htd = k.repeat_interleave(group, 1).transpose(0, 1);
  const at::Tensor v_htd = v.repeat_interleave(group, 1).transpose(0, 1);
  const at::Tensor future = at::ones({tokens, tokens}, q.options().dtype(at::kBool)).triu(1);
  at::Tensor scores_hqk =
      at::matmul(q_htd, k_htd.transpose(1, 2)) / std::sqrt(static_cast<double>(q.size(2)));
  scores_hqk = scores_hqk.masked_fill(future, -std::numeric_limits<double>::infinity());
  return at::matmul(at::softmax(scores_hqk, -1), v_htd).transpose(0, 1);
}

at::Tensor attention(const at::Tensor& x, const AttentionWeights& weights, const RotaryTable& rope,
                     std::int64_t heads, std::int64_t kv_heads, double eps) {
  const std::int64_t tokens = x.size(0), d = weights.q_norm.size(0);
  const at::Tensor query_and_gate = at::linear(x, weights.q_proj).view({tokens, heads, 2 * d});
  const at::Tensor gate = query_and_gate.narrow(-1, d, d);
  at::Tensor q = query_and_gate.narrow(-1, 0, d);
  at::Tensor k = at::linear(x, weights.k_proj).view({tokens, kv_heads, d});
  const at::Tensor v = at::linear(x, weights.v_proj).view({tokens, kv_heads, d});

  q = apply_rope(rms_norm(q, weights.q_norm, eps), rope);
  k = apply_rope(rms_norm(k, weights.k_norm, eps), rope);
  const at::Tensor y = causal_attention(q, k, v) * at::sigmoid(gate);
  return at::linear(y.reshape({tokens, heads * d}), weights.o_proj);
}

}  // namespace meshparity::reference

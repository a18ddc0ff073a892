// Shapes: n tokens of a sequence, m keys, H query heads and Hkv key-value heads of width d; R sequences, Hk
// key and Hv value heads of widths K and V.
#include "impl/blocks/cached.h"

#include <cmath>

namespace meshparity::impl {
namespace {

// [R, Hk*K] -> [R, Hv, K], key head j for value heads j*r .. j*r + r - 1.
at::Tensor key_heads(const at::Tensor& x, std::int64_t value_heads, std::int64_t key_dim) {
  const std::int64_t heads = x.size(1) / key_dim;
  return x.reshape({x.size(0), heads, 1, key_dim})
      .expand({x.size(0), heads, value_heads / heads, key_dim})
      .reshape({x.size(0), value_heads, key_dim});
}

}  // namespace

at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                            const at::Tensor& bias, std::int64_t head_dim) {
  const std::int64_t n = q.size(0), m = keys.size(0), d = head_dim;
  const std::int64_t kv_heads = keys.size(1) / d, heads = q.size(1) / d;
  const std::int64_t g = heads / kv_heads;
  const auto by_head = [&](const at::Tensor& x) { return x.reshape({m, kv_heads, d}).transpose(0, 1); };
  const at::Tensor scaled = (q * (1.0 / std::sqrt(static_cast<double>(d)))).reshape({n, kv_heads, g, d});
  const at::Tensor by_group = scaled.permute({1, 2, 0, 3}).reshape({kv_heads, g * n, d});
  at::Tensor scores = at::bmm(by_group, by_head(keys).transpose(1, 2)).view({kv_heads * g, n, m});
  if (bias.defined()) scores.add_(bias);
  const at::Tensor p = at::_softmax(scores, -1, /*half_to_float=*/false).view({kv_heads, g * n, m});
  const at::Tensor o = at::bmm(p, by_head(values)).view({kv_heads, g, n, d});
  return o.permute({2, 0, 1, 3}).reshape({n, heads * d});
}

Tensors delta_step(const at::Tensor& qk, const at::Tensor& v, const at::Tensor& g, const at::Tensor& beta,
                   const at::Tensor& states, std::int64_t key_dim) {
  const std::int64_t rows = v.size(0), heads = g.size(1), value_dim = v.size(1) / heads;
  const std::int64_t width = qk.size(1) / 2;
  const double scale = 1.0 / std::sqrt(static_cast<double>(key_dim));
  const at::Tensor q = key_heads(qk.slice(1, 0, width), heads, key_dim).mul(scale).unsqueeze(3);
  const at::Tensor k = key_heads(qk.slice(1, width), heads, key_dim).unsqueeze(3);  // [R, Hv, K, 1]
  const at::Tensor decayed = states * g.exp().view({rows, heads, 1, 1});
  const at::Tensor r = v.view({rows, heads, value_dim}) - (decayed * k).sum(2);
  const at::Tensor after = decayed + k * (r * beta.unsqueeze(2)).unsqueeze(2);
  return {(after * q).sum(2).view({rows, heads * value_dim}), after};
}

Routing route_to(const at::Tensor& logits, const at::Tensor& experts) {
  const at::Tensor given = at::_softmax(logits, 1, /*half_to_float=*/false).gather(1, experts);
  return {given / given.sum(1, true), experts};
}

}  // namespace meshparity::impl

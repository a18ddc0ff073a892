#include "impl/blocks/attention_core.h"

#include <cmath>

namespace meshparity::impl {
namespace {

// [T, Hkv*g*d] -> [Hkv, g*T, d] for g query heads per kv head (g = 1 for k and v).
at::Tensor by_kv_head(const at::Tensor& x, std::int64_t kv_heads, std::int64_t d) {
  const std::int64_t n = x.size(0), g = x.size(1) / (kv_heads * d);
  return x.view({n, kv_heads, g, d}).permute({1, 2, 0, 3}).reshape({kv_heads, g * n, d});
}

at::Tensor by_token(const at::Tensor& x, std::int64_t n) {
  const std::int64_t kv_heads = x.size(0), d = x.size(2), g = n ? x.size(1) / n : 0;
  return x.view({kv_heads, g, n, d}).permute({2, 0, 1, 3}).reshape({n, kv_heads * g * d});
}

// Rows [begin, end) of the token dimension of [Hkv, g*T, d], for all g.
at::Tensor tokens_of(const at::Tensor& x, std::int64_t n, std::int64_t begin, std::int64_t end) {
  if (begin == 0 && end == n) return x;
  const std::int64_t g = x.size(1) / n;
  return x.view({x.size(0), g, n, x.size(2)})
      .slice(2, begin, end)
      .reshape({x.size(0), g * (end - begin), x.size(2)});
}

void put_tokens(at::Tensor& into, const at::Tensor& part, std::int64_t n, std::int64_t begin,
                std::int64_t end) {
  const std::int64_t g = into.size(1) / n;
  into.view({into.size(0), g, n, into.size(2)})
      .slice(2, begin, end)
      .add_(part.view({into.size(0), g, end - begin, into.size(2)}));
}

at::Tensor probabilities(const at::Tensor& qh, const at::Tensor& kh, std::int64_t n,
                         const AttentionBlock& b) {
  const at::Tensor scores =
      at::bmm(tokens_of(qh, n, b.begin, b.end), kh.slice(1, b.key_begin, b.end).transpose(1, 2));
  const at::Tensor masked = scores.view({-1, b.end - b.begin, b.end - b.key_begin}).add_(b.bias);
  return at::_softmax(masked, -1, /*half_to_float=*/false).view(scores.sizes());
}

}  // namespace

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const PackedTokens& tokens, std::int64_t head_dim) {
  const std::int64_t n = tokens.tokens, kv_heads = k.size(1) / head_dim;
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_dim));
  const std::vector<AttentionBlock> blocks = tokens.attention;
  at::Tensor qh, kh, vh, y;
  at::Tensor kept;  // the probabilities, where one block holds them all; several blocks compute theirs again
                    // in backward
  {
    const BelowAutograd guard;
    if (n == 0) {
      y = at::zeros_like(q);
    } else {
      qh = by_kv_head(q, kv_heads, head_dim).mul(scale);
      kh = by_kv_head(k, kv_heads, head_dim);
      vh = by_kv_head(v, kv_heads, head_dim);
      at::Tensor out = blocks.size() == 1 ? at::Tensor() : at::zeros_like(qh);
      for (const auto& b : blocks) {
        const at::Tensor p = probabilities(qh, kh, n, b);
        const at::Tensor part = at::bmm(p, vh.slice(1, b.key_begin, b.end));
        if (blocks.size() == 1) {
          out = part;
          kept = p;
        } else {
          put_tokens(out, part, n, b.begin, b.end);
        }
      }
      y = by_token(out, n);
    }
  }
  return attach("attention", {q, k, v}, {y}, [=](const Tensors& grads) {
    if (n == 0) return Tensors{at::zeros_like(q), at::zeros_like(k), at::zeros_like(v)};
    const at::Tensor dout = by_kv_head(grads[0].contiguous(), kv_heads, head_dim);
    at::Tensor dq = at::zeros_like(qh), dk = at::zeros_like(kh), dv = at::zeros_like(vh);
    for (const auto& b : blocks) {
      const at::Tensor p = kept.defined() ? kept : probabilities(qh, kh, n, b);
      const at::Tensor db = tokens_of(dout, n, b.begin, b.end), qb = tokens_of(qh, n, b.begin, b.end);
      const at::Tensor kb = kh.slice(1, b.key_begin, b.end), vb = vh.slice(1, b.key_begin, b.end);
      dv.slice(1, b.key_begin, b.end).add_(at::bmm(p.transpose(1, 2), db));
      const at::Tensor ds =
          at::_softmax_backward_data(at::bmm(db, vb.transpose(1, 2)), p, -1, p.scalar_type());
      put_tokens(dq, at::bmm(ds, kb), n, b.begin, b.end);
      dk.slice(1, b.key_begin, b.end).add_(at::bmm(ds.transpose(1, 2), qb));
    }
    return Tensors{by_token(dq.mul_(scale), n), by_token(dk, n), by_token(dv, n)};
  })[0];
}

Tensors split_query_gate(const at::Tensor& query_gate, std::int64_t head_dim) {
  const std::int64_t n = query_gate.size(0), heads = query_gate.size(1) / (2 * head_dim), d = head_dim;
  Tensors outputs;
  {
    const BelowAutograd guard;
    const at::Tensor pairs = query_gate.view({n, heads, 2, d});
    for (std::int64_t part : {0, 1}) outputs.push_back(pairs.select(2, part).reshape({n, heads * d}));
  }
  return attach("split_query_gate", {query_gate}, std::move(outputs), [n, heads, d](const Tensors& grads) {
    return Tensors{at::stack({grads[0].reshape({n, heads, d}), grads[1].reshape({n, heads, d})}, 2)
                       .view({n, heads * 2 * d})};
  });
}

}  // namespace meshparity::impl

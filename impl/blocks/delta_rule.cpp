// Shapes: N chunks, H value heads, C tokens per chunk, K key width, V value width. Tensors are [N, H, C, .]
// and the names are those of qwen35.md 4.1 and 4.2: G cumulative log decay, D decay between two tokens, T =
// (I + L)^(-1), U = T diag(beta) V, W = T diag(beta gamma) K, Delta = U - W S, P = scaled masked scores.
#include "impl/blocks/delta_rule.h"

#include <cmath>

namespace meshparity::impl {
namespace {

// Moves [T, H*X] to chunks [N, H, C, X], the tail padded with zeros. A padded token has g = 0, beta = 0, k =
// 0: it neither decays nor writes.
at::Tensor to_chunks(const at::Tensor& x, const DeltaChunks& chunks, std::int64_t heads) {
  const std::int64_t pad = chunks.count * chunks.length - x.size(0);
  const at::Tensor full = pad ? at::constant_pad_nd(x, {0, 0, 0, pad}) : x.contiguous();
  return full.view({chunks.count, chunks.length, heads, x.size(1) / heads}).transpose(1, 2).contiguous();
}

at::Tensor from_chunks(const at::Tensor& x, std::int64_t tokens) {
  const std::int64_t n = x.size(0), h = x.size(1), c = x.size(2), width = x.size(3);
  return x.transpose(1, 2).reshape({n * c, h * width}).slice(0, 0, tokens);
}

// [N, Hk, C, K] -> [N, Hv, C, K], key head j for value heads j*r .. j*r + r - 1.
at::Tensor expand_heads(const at::Tensor& x, std::int64_t r) {
  if (r == 1) return x;
  const std::int64_t n = x.size(0), h = x.size(1), c = x.size(2), k = x.size(3);
  return x.unsqueeze(2).expand({n, h, r, c, k}).reshape({n, h * r, c, k});
}

at::Tensor sum_heads(const at::Tensor& x, std::int64_t r) {
  if (r == 1) return x;
  return x.view({x.size(0), x.size(1) / r, r, x.size(2), x.size(3)}).sum(2);
}

at::Tensor column(const at::Tensor& x) {
  return x.unsqueeze(3);
}

// Everything the backward reads.
struct Chunked {
  at::Tensor q, k, v, beta;  // [N,H,C,K], [N,H,C,K], [N,H,C,V], [N,H,C]
  at::Tensor gamma, kappa,
      carry;         // e^G where the entry state is seen; e^(G_C - G) where the exit state is fed; [N,H,1,1]
  at::Tensor decay;  // D
  at::Tensor kk;     // k_i . k_j D_ij
  at::Tensor lower;  // L, unmasked above: only its strict lower triangle is read
  at::Tensor p, uw;  // P; [U | W]
  at::Tensor q_in, k_out;         // Q~ = s gamma q, K~ = kappa k
  at::Tensor states, delta, map;  // S entering each chunk, Delta, M
};

// S entering every chunk, from S_(n+1) = M_n S_n + E_n and S_0 = `first` or, where that is undefined, 0. Run
// backwards with transposed maps it gives the gradients of the states leaving every chunk.
at::Tensor scan(const at::Tensor& map, const at::Tensor& add, bool reverse, const at::Tensor& first = {}) {
  at::Tensor states = at::zeros_like(add);
  if (first.defined()) states.select(0, 0).copy_(first);
  const std::int64_t n = map.size(0);
  const Tensors m = map.unbind(0), e = add.unbind(0);
  Tensors s = states.unbind(0);
  for (std::int64_t i = 1; i < n; ++i) {
    const std::int64_t to = reverse ? n - 1 - i : i, from = reverse ? to + 1 : to - 1;
    at::baddbmm_out(s[to], e[from], m[from], s[from]);
  }
  return states;
}

Chunked forward_chunks(const at::Tensor& qk, const at::Tensor& v, const at::Tensor& g, const at::Tensor& beta,
                       const DeltaChunks& chunks, std::int64_t key_dim, const at::Tensor& first = {}) {
  Chunked c;
  const std::int64_t key_heads = qk.size(1) / (2 * key_dim), heads = g.size(1), r = heads / key_heads;
  const double scale = 1.0 / std::sqrt(static_cast<double>(key_dim));
  const at::Tensor both = to_chunks(qk, chunks, 2 * key_heads);
  c.q = expand_heads(both.slice(1, 0, key_heads), r).mul(scale);
  c.k = expand_heads(both.slice(1, key_heads), r);
  c.v = to_chunks(v, chunks, heads);
  c.beta = to_chunks(beta, chunks, heads).squeeze(3);
  const at::Tensor sum = to_chunks(g, chunks, heads).squeeze(3).cumsum(2);
  const at::Tensor last = sum.slice(2, chunks.length - 1);
  const at::Tensor whole = last.exp();
  c.gamma = sum.exp().mul_(chunks.entry);
  c.kappa = (last - sum).exp_().mul_(chunks.exit);
  c.carry = column(whole) * chunks.carry;
  // Masked before exp: above the diagonal the difference is positive and may overflow.
  c.decay = (column(sum) - sum.unsqueeze(2)).add_(chunks.bias).exp_();

  const at::Tensor kt = c.k.transpose(2, 3);
  c.kk = at::matmul(c.k, kt).mul_(c.decay);
  c.lower = c.kk * column(c.beta);
  c.p = at::matmul(c.q, kt).mul_(c.decay);
  c.q_in = c.q * column(c.gamma);
  c.k_out = c.k * column(c.kappa);
  const at::Tensor rhs = at::cat({c.v * column(c.beta), c.k * column(c.beta * c.gamma)}, 3);
  c.uw = at::linalg_solve_triangular(c.lower, rhs, /*upper=*/false, /*left=*/true, /*unitriangular=*/true);
  const at::Tensor u = c.uw.slice(3, 0, v.size(1) / heads), w = c.uw.slice(3, v.size(1) / heads);
  const at::Tensor me = at::matmul(c.k_out.transpose(2, 3), c.uw);  // [K~^T U | K~^T W]
  c.map = me.slice(3, v.size(1) / heads).neg();
  c.map.diagonal(0, 2, 3).add_(c.carry.squeeze(3));
  c.states = scan(c.map, me.slice(3, 0, v.size(1) / heads), /*reverse=*/false, first);
  c.delta = u - at::matmul(w, c.states);
  return c;
}

// Gradients of (qk, v, g, beta) from dO [N, H, C, V].
Tensors backward_chunks(const Chunked& c, const DeltaChunks& chunks, const at::Tensor& dout,
                        std::int64_t tokens, std::int64_t r, double scale) {
  const std::int64_t value_dim = c.v.size(3);
  const at::Tensor w = c.uw.slice(3, value_dim);
  const at::Tensor p_dout = at::matmul(c.p.transpose(2, 3), dout);
  // dS = Q~^T dO + gamma_C dS' - W^T dDelta with dDelta = P^T dO + K~ dS' is an affine map of dS' again: M^T
  // dS' + F.
  const at::Tensor f = at::matmul(c.q_in.transpose(2, 3), dout) - at::matmul(w.transpose(2, 3), p_dout);
  const at::Tensor dstates =
      scan(c.map.transpose(2, 3), f, /*reverse=*/true);  // of the state leaving each chunk
  const at::Tensor ddelta = p_dout + at::matmul(c.k_out, dstates);
  const at::Tensor states_t = c.states.transpose(2, 3);
  const at::Tensor dq_in = at::matmul(dout, states_t);
  const at::Tensor dk_out = at::matmul(c.delta, dstates.transpose(2, 3));
  const at::Tensor dw = at::matmul(ddelta, states_t).neg_();
  const at::Tensor x =
      at::linalg_solve_triangular(c.lower.transpose(2, 3), at::cat({ddelta, dw}, 3), /*upper=*/true,
                                  /*left=*/true, /*unitriangular=*/true);
  const at::Tensor x1 = x.slice(3, 0, value_dim), x2 = x.slice(3, value_dim);
  const at::Tensor dp = at::matmul(dout, c.delta.transpose(2, 3));
  const at::Tensor dlower = at::matmul(x, c.uw.transpose(2, 3)).neg_().tril_(-1);

  const at::Tensor x2k = (x2 * c.k).sum(3);
  const at::Tensor dkk = dlower * c.kk;  // gradient of L times L/beta
  const at::Tensor dbeta = (x1 * c.v).sum(3).addcmul_(c.gamma, x2k).add_(dkk.sum(3));
  const at::Tensor dv = x1 * column(c.beta);

  const at::Tensor dscores = dp * c.decay;                           // of q k^T (q carries the scale)
  const at::Tensor dkeys = (dlower * c.decay).mul_(column(c.beta));  // of k k^T
  const at::Tensor dq = at::matmul(dscores, c.k).addcmul_(dq_in, column(c.gamma));
  at::Tensor dk = at::matmul(dkeys + dkeys.transpose(2, 3), c.k);
  dk.add_(at::matmul(dscores.transpose(2, 3), c.q)).addcmul_(dk_out, column(c.kappa));
  dk.addcmul_(x2, column(c.beta * c.gamma));

  // Log decays: every factor e^(G_i - G_j) pulls on both ends, entry factors on G_i, exit factors on G_C -
  // G_i.
  const at::Tensor h = (dp * c.p).addcmul_(dkk, column(c.beta));
  const at::Tensor out_pull = (dk_out * c.k_out).sum(3);
  at::Tensor dsum = h.sum(3).sub_(h.sum(2)).add_((dq_in * c.q_in).sum(3)).addcmul_(c.beta * c.gamma, x2k);
  dsum.sub_(out_pull);
  dsum.select(2, dsum.size(2) - 1)
      .add_(out_pull.sum(2))
      .add_((dstates * c.states)
                .sum(at::IntArrayRef({2, 3}))
                .mul_(c.carry.view({c.carry.size(0), c.carry.size(1)})));
  // dg_i = sum over t >= i of dG_t, within the document: those of later documents cancel only up to rounding,
  // and a document without loss must get gradients of exactly zero.
  const at::Tensor dg = at::matmul(dsum.unsqueeze(2), chunks.bias.eq(0).to(dsum.scalar_type())).squeeze(2);
  const at::Tensor dqk = at::cat({sum_heads(dq, r).mul_(scale), sum_heads(dk, r)}, 1);
  return {from_chunks(dqk, tokens), from_chunks(dv, tokens), from_chunks(column(dg), tokens),
          from_chunks(column(dbeta), tokens)};
}

}  // namespace

at::Tensor delta_rule(const at::Tensor& qk, const at::Tensor& v, const at::Tensor& g, const at::Tensor& beta,
                      const PackedTokens& tokens, std::int64_t key_dim) {
  const std::int64_t n = tokens.tokens, r = g.size(1) / (qk.size(1) / (2 * key_dim)), heads = g.size(1);
  const DeltaChunks chunks = tokens.chunks;
  Chunked c;
  at::Tensor y;
  {
    const BelowAutograd guard;
    if (n == 0) {
      y = at::zeros_like(v);
    } else {
      c = forward_chunks(qk, v, g, beta, chunks, key_dim);
      y = from_chunks(at::matmul(c.q_in, c.states).add_(at::matmul(c.p, c.delta)), n);
    }
  }
  return attach("delta_rule", {qk, v, g, beta}, {y}, [=](const Tensors& grads) {
    if (n == 0)
      return Tensors{at::zeros_like(qk), at::zeros_like(v), at::zeros_like(g), at::zeros_like(beta)};
    return backward_chunks(c, chunks, to_chunks(grads[0], chunks, heads), n, r,
                           1.0 / std::sqrt(static_cast<double>(key_dim)));
  })[0];
}

Tensors delta_rule_from(const at::Tensor& qk, const at::Tensor& v, const at::Tensor& g,
                        const at::Tensor& beta, const at::Tensor& states, const PackedTokens& tokens,
                        std::int64_t key_dim) {
  const at::Tensor o = at::empty_like(v), leaving = at::empty_like(states);
  std::int64_t document = 0;
  for (std::int64_t begin = 0, end = 0; begin < tokens.tokens; begin = end, ++document) {
    while (end < tokens.tokens && tokens.documents[end] == tokens.documents[begin]) ++end;
    const std::int64_t n = end - begin;
    const auto own = [&](const at::Tensor& x) { return x.slice(0, begin, end); };
    // One document alone: all that enters its first chunk is its state.
    const DeltaChunks chunks = pack_documents(std::vector<std::int64_t>(n, 0), 1, tokens.options).chunks;
    const Chunked c = forward_chunks(own(qk), own(v), own(g), own(beta), chunks, key_dim, states[document]);
    own(o).copy_(from_chunks(at::matmul(c.q_in, c.states).add_(at::matmul(c.p, c.delta)), n));
    const std::int64_t last = chunks.count - 1;
    leaving[document].copy_(c.carry[last] * c.states[last] +
                            at::matmul(c.k_out[last].transpose(1, 2), c.delta[last]));
  }
  return {o, leaving};
}

Tensors delta_gates(const at::Tensor& a, const at::Tensor& b, const at::Tensor& a_log,
                    const at::Tensor& dt_bias) {
  at::Tensor rate, shifted, g, beta;
  {
    const BelowAutograd guard;
    rate = a_log.exp().neg_();
    shifted = a + dt_bias;
    g = at::softplus(shifted, 1, 20).mul_(rate);
    beta = at::sigmoid(b);
  }
  const at::Tensor g_kept = shared_view(g), beta_kept = shared_view(beta);
  return attach(
      "delta_gates", {a, b, a_log, dt_bias}, {g, beta},
      [rate, shifted, g_kept, beta_kept](const Tensors& grads) {
        const at::Tensor da = at::softplus_backward(grads[0] * rate, shifted, 1, 20);
        return Tensors{da, at::sigmoid_backward(grads[1], beta_kept), (grads[0] * g_kept).sum(0), da.sum(0)};
      });
}

}  // namespace meshparity::impl

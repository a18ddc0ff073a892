// Shapes: c tokens of a piece, K key width, V value width; names as in qwen35.md 4.1 and 4.2. Everything of
// one value head and one piece fits in a small workspace.
#include "impl/blocks/cpu_delta_rule.h"

#include <algorithm>
#include <cmath>

#include "impl/blocks/cpu_products.h"

namespace meshparity::impl::cpu {
namespace {

// One value head's view of one piece.
template <class T>
struct Head {
  std::int64_t c, K, V;
  T scale;                  // K^(-1/2)
  Matrix<const T> q, k, v;  // [c, K], [c, K], [c, V]
  const T *g, *beta;        // one per token, `gate_stride` and `beta_stride` apart
  std::int64_t gate_stride, beta_stride;
  std::vector<T> gamma;    // [c] e^G
  std::vector<T> kappa;    // [c] e^(G_C - G)
  std::vector<T> kk, qk;   // [c, c] k_i.k_j D_ij below the diagonal; scale q_i.k_j D_ij up to it
  std::vector<T> decay;    // [c, c] D
  std::vector<T> columns;  // [K, c] keys, transposed
  T whole;                 // gamma_C

  void set(const DeltaPiece& piece, const DeltaSizes& sizes, std::int64_t head, In<T> x, In<T> values,
           In<T> gates, In<T> betas) {
    c = piece.end - piece.begin, K = sizes.key_dim, V = sizes.value_dim;
    scale = T(1) / std::sqrt(T(K));
    const std::int64_t key_head = head / (sizes.value_heads / sizes.key_heads);
    q = {x.row(piece.begin) + key_head * K, x.stride};
    k = {x.row(piece.begin) + (sizes.key_heads + key_head) * K, x.stride};
    v = {values.row(piece.begin) + head * V, values.stride};
    g = gates.row(piece.begin) + head, gate_stride = gates.stride;
    beta = betas.row(piece.begin) + head, beta_stride = betas.stride;
    decays();
    kk.resize(c * c), qk.resize(c * c);
    columns.resize(K * c);
    transpose(k, K, columns);
    scores(k, columns, K, 0, kk);
    scores(q, columns, K, 1, qk);
    for (std::int64_t i = 0; i < c; ++i)
      for (std::int64_t j = 0; j <= i; ++j) {
        kk[i * c + j] *= decay[i * c + j];
        qk[i * c + j] *= decay[i * c + j] * scale;
      }
  }

  // [c, width] -> [width, c]
  void transpose(Matrix<const T> x, std::int64_t width, std::vector<T>& out) const {
    for (std::int64_t i = 0; i < c; ++i)
      for (std::int64_t a = 0; a < width; ++a) out[a * c + i] = x.data[i * x.stride + a];
  }

  // out [c, c] = x y^T for columns below row + `reach`, zero elsewhere; y given as its transpose [width, c].
  void scores(Matrix<const T> x, const std::vector<T>& y, std::int64_t width, std::int64_t reach,
              std::vector<T>& out) const {
    std::fill(out.begin(), out.end(), T(0));
    for (std::int64_t i = 0; i < c; ++i)
      for (std::int64_t a = 0; a < width; ++a)
        axpy(out.data() + i * c, x.data[i * x.stride + a], y.data() + a * c, i + reach);
  }

  // Decays between tokens as running products of e^g: one exponential per token, and a product of factors in
  // (0, 1] cannot overflow.
  void decays() {
    gamma.resize(c), kappa.resize(c), decay.assign(c * c, T(0));
    T running = 1;
    for (std::int64_t i = 0; i < c; ++i) {
      const T alpha = std::exp(g[i * gate_stride]);
      running *= alpha;
      gamma[i] = running;
      T* row = decay.data() + i * c;
      if (i > 0)
        for (std::int64_t j = 0; j < i; ++j) row[j] = row[j - c] * alpha;
      row[i] = 1;
    }
    whole = running;
    std::copy_n(decay.data() + (c - 1) * c, c, kappa.data());
  }
  const T* key(std::int64_t i) const { return k.data + i * k.stride; }
  const T* query(std::int64_t i) const { return q.data + i * q.stride; }
  T beta_of(std::int64_t i) const { return beta[i * beta_stride]; }
};

// S <- gamma_C S + sum_i kappa_i k_i Delta_i^T
template <class T>
void advance(const Head<T>& h, const T* delta, std::int64_t delta_stride, const T* from, T* to) {
  for (std::int64_t x = 0; x < h.K * h.V; ++x) to[x] = h.whole * from[x];
  for (std::int64_t i = 0; i < h.c; ++i)
    for (std::int64_t x = 0; x < h.K; ++x)
      axpy(to + x * h.V, h.kappa[i] * h.key(i)[x], delta + i * delta_stride, h.V);
}

}  // namespace

template <class T>
void delta_rule_forward(const std::vector<DeltaPiece>& pieces, const DeltaSizes& sizes, In<T> qk, In<T> v,
                        In<T> g, In<T> beta, Rows<T> delta, T* states, Rows<T> o, const T* entering,
                        T* leaving) {
  const std::int64_t K = sizes.key_dim, V = sizes.value_dim, per_piece = sizes.value_heads * K * V;
  Head<T> h;
  std::vector<T> read;  // [c, V] rows of K S, then of Q S
  for (std::int64_t head = 0; head < sizes.value_heads; ++head) {
    std::int64_t of_document = head * K * V - per_piece;  // this head in `entering` and `leaving`
    for (std::size_t p = 0; p < pieces.size(); ++p) {
      const DeltaPiece& piece = pieces[p];
      h.set(piece, sizes, head, qk, v, g, beta);
      T* state = states + static_cast<std::int64_t>(p) * per_piece + head * K * V;
      if (piece.first) {
        of_document += per_piece;
        if (entering)
          std::copy_n(entering + of_document, K * V, state);
        else
          std::fill_n(state, K * V, T(0));
      }
      read.resize(h.c * V);
      Matrix<T> d{delta.row(piece.begin) + head * V, delta.stride},
          out{o.row(piece.begin) + head * V, o.stride};
      product<T>({read.data(), V}, false, h.k, Op::plain, {state, V}, Op::plain, h.c, V, K);
      for (std::int64_t i = 0; i < h.c; ++i) {
        T* row = d.data + i * d.stride;
        for (std::int64_t y = 0; y < V; ++y)
          row[y] = h.v.data[i * h.v.stride + y] - h.gamma[i] * read[i * V + y];
        for (std::int64_t j = 0; j < i; ++j) axpy(row, -h.kk[i * h.c + j], d.data + j * d.stride, V);
        for (std::int64_t y = 0; y < V; ++y) row[y] *= h.beta_of(i);
      }
      product<T>({read.data(), V}, false, h.q, Op::plain, {state, V}, Op::plain, h.c, V, K);
      for (std::int64_t i = 0; i < h.c; ++i) {
        T* row = out.data + i * out.stride;
        for (std::int64_t y = 0; y < V; ++y) row[y] = h.scale * h.gamma[i] * read[i * V + y];
        for (std::int64_t j = 0; j <= i; ++j) axpy(row, h.qk[i * h.c + j], d.data + j * d.stride, V);
      }
      if (p + 1 < pieces.size() && !pieces[p + 1].first)
        advance<T>(h, d.data, d.stride, state, state + per_piece);
      else if (leaving)
        advance<T>(h, d.data, d.stride, state, leaving + of_document);
    }
  }
}

template <class T>
void delta_rule_backward(const std::vector<DeltaPiece>& pieces, const DeltaSizes& sizes, In<T> qk, In<T> v,
                         In<T> g, In<T> beta, In<T> delta, const T* states, In<T> dout, Rows<T> dqk,
                         Rows<T> dv, Rows<T> dg, Rows<T> dbeta) {
  const std::int64_t K = sizes.key_dim, V = sizes.value_dim, per_piece = sizes.value_heads * K * V;
  const std::int64_t r = sizes.value_heads / sizes.key_heads;
  Head<T> h;
  std::vector<T> x, dp, dl, dcolumns, out_read, x_read, exit_read, ks, dsum, dstate(K * V);
  for (std::int64_t head = 0; head < sizes.value_heads; ++head) {
    bool leaves = false;  // does the state leave the piece (the next piece continues its document)?
    for (std::int64_t p = static_cast<std::int64_t>(pieces.size()) - 1; p >= 0; --p) {
      const DeltaPiece& piece = pieces[p];
      h.set(piece, sizes, head, qk, v, g, beta);
      const std::int64_t c = h.c;
      const T* state = states + p * per_piece + head * K * V;
      const Matrix<const T> s{state, V}, d{delta.row(piece.begin) + head * V, delta.stride};
      const Matrix<const T> dy{dout.row(piece.begin) + head * V, dout.stride};
      if (!leaves) std::fill(dstate.begin(), dstate.end(), T(0));
      x.resize(c * V), dp.resize(c * c), dl.resize(c * c), dcolumns.resize(V * c), out_read.resize(c * K),
          x_read.resize(c * K), exit_read.assign(c * K, T(0));
      ks.resize(c * V), dsum.assign(c, T(0));

      // x starts as dDelta = P^T dO + K~ dS' and becomes T^T dDelta by back substitution.
      product<T>({x.data(), V}, false, {h.qk.data(), c}, Op::transposed, dy, Op::plain, c, V, c);
      if (leaves) {
        product<T>({exit_read.data(), K}, false, d, Op::plain, {dstate.data(), V}, Op::transposed, c, K, V);
        for (std::int64_t i = 0; i < c; ++i)
          for (std::int64_t a = 0; a < K; ++a)
            axpy(x.data() + i * V, h.kappa[i] * h.key(i)[a], dstate.data() + a * V, V);
      }
      for (std::int64_t i = c - 1; i >= 0; --i)
        for (std::int64_t j = i + 1; j < c; ++j)
          axpy(x.data() + i * V, -h.beta_of(j) * h.kk[j * c + i], x.data() + j * V, V);

      const bool enters = !piece.first;
      if (enters) {
        product<T>({out_read.data(), K}, false, dy, Op::plain, s, Op::transposed, c, K, V);
        product<T>({x_read.data(), K}, false, {x.data(), V}, Op::plain, s, Op::transposed, c, K, V);
        product<T>({ks.data(), V}, false, h.k, Op::plain, s, Op::plain, c, V, K);
      }
      Matrix<T> dq{dqk.row(piece.begin) + (head / r) * K, dqk.stride};
      Matrix<T> dk{dqk.row(piece.begin) + (sizes.key_heads + head / r) * K, dqk.stride};

      // Products with the state and with the keys of the piece.
      h.transpose(d, V, dcolumns);
      h.scores(dy, dcolumns, V, 1, dp);
      h.scores({x.data(), V}, dcolumns, V, 0, dl);  // -dL
      for (std::int64_t i = 0; i < c; ++i) {
        const T b = h.beta_of(i);
        T* dq_row = dq.data + i * dq.stride;
        T* dk_row = dk.data + i * dk.stride;
        const T* x_row = x.data() + i * V;
        T* dv_row = dv.row(piece.begin + i) + head * V;
        T db = 0;
        for (std::int64_t y = 0; y < V; ++y) {
          db += x_row[y] * (h.v.data[i * h.v.stride + y] - (enters ? h.gamma[i] * ks[i * V + y] : T(0)));
          dv_row[y] = b * x_row[y];
        }
        if (enters) {
          const T from_query = h.scale * h.gamma[i], from_key = -b * h.gamma[i];
          axpy(dq_row, from_query, out_read.data() + i * K, K);
          axpy(dk_row, from_key, x_read.data() + i * K, K);
          dsum[i] += from_query * dot(h.query(i), out_read.data() + i * K, K);
          dsum[i] += from_key * dot(h.key(i), x_read.data() + i * K, K);
        }
        if (leaves) {
          axpy(dk_row, h.kappa[i], exit_read.data() + i * K, K);
          const T pull = h.kappa[i] * dot(h.key(i), exit_read.data() + i * K, K);
          dsum[i] -= pull;
          dsum[c - 1] += pull;
        }
        for (std::int64_t j = 0; j <= i; ++j) {
          const T decayed = dp[i * c + j] * h.decay[i * c + j] * h.scale;
          axpy(dq_row, decayed, h.key(j), K);
          axpy(dk.data + j * dk.stride, decayed, h.query(i), K);
          if (j == i) continue;  // no decay between a token and itself, and no L
          const T dlower = -dl[i * c + j];
          const T dkey = dlower * h.decay[i * c + j] * b;
          axpy(dk_row, dkey, h.key(j), K);
          axpy(dk.data + j * dk.stride, dkey, h.key(i), K);
          db += dlower * h.kk[i * c + j];
          const T pull = dp[i * c + j] * h.qk[i * c + j] + dlower * h.kk[i * c + j] * b;
          dsum[i] += pull;
          dsum[j] -= pull;
        }
        dbeta.row(piece.begin + i)[head] = db;
      }
      // The state entering: through the query reads, the state leaving, and the right side of the solve.
      if (leaves) dsum[c - 1] += h.whole * dot(dstate.data(), state, K * V);
      for (T& value : dstate) value *= h.whole;
      if (enters)
        for (std::int64_t i = 0; i < c; ++i)
          for (std::int64_t a = 0; a < K; ++a) {
            axpy(dstate.data() + a * V, h.scale * h.gamma[i] * h.query(i)[a], dy.data + i * dy.stride, V);
            axpy(dstate.data() + a * V, -h.beta_of(i) * h.gamma[i] * h.key(i)[a], x.data() + i * V, V);
          }
      T sum = 0;
      for (std::int64_t i = c - 1; i >= 0; --i) {
        sum += dsum[i];
        dg.row(piece.begin + i)[head] = sum;
      }
      leaves = enters;
    }
  }
}

// NOLINTBEGIN(bugprone-macro-parentheses): T is a type.
#define MESHPARITY_INSTANTIATE(T)                                                                       \
  template void delta_rule_forward<T>(const std::vector<DeltaPiece>&, const DeltaSizes&, In<T>, In<T>,  \
                                      In<T>, In<T>, Rows<T>, T*, Rows<T>, const T*, T*);                \
  template void delta_rule_backward<T>(const std::vector<DeltaPiece>&, const DeltaSizes&, In<T>, In<T>, \
                                       In<T>, In<T>, In<T>, const T*, In<T>, Rows<T>, Rows<T>, Rows<T>, \
                                       Rows<T>);
MESHPARITY_INSTANTIATE(double)
MESHPARITY_INSTANTIATE(float)
#undef MESHPARITY_INSTANTIATE
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace meshparity::impl::cpu

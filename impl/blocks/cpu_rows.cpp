#include "impl/blocks/cpu_rows.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "impl/blocks/cpu_products.h"

namespace meshparity::impl::cpu {
namespace {

template <class T>
T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

// d silu / dx
template <class T>
T silu_slope(T x, T s) {
  return s * (T(1) + x * (T(1) - s));
}

// [columns, taps] -> [taps, columns], so that channels are contiguous.
template <class T>
std::vector<T> transposed(const T* w, std::int64_t columns, std::int64_t taps) {
  std::vector<T> out(columns * taps);
  for (std::int64_t c = 0; c < columns; ++c)
    for (std::int64_t t = 0; t < taps; ++t) out[t * columns + c] = w[c * taps + t];
  return out;
}

}  // namespace

template <class T>
void rms_norm_forward(In<T> x, const T* w, std::int64_t width, double eps, Rows<T> y, T* rho) {
  for (std::int64_t i = 0; i < x.rows; ++i)
    for (std::int64_t c = 0; c < x.columns; c += width) {
      const T* in = x.row(i) + c;
      T* out = y.row(i) + c;
      const T r = T(1) / std::sqrt(dot(in, in, width) / T(width) + T(eps));
      for (std::int64_t j = 0; j < width; ++j) out[j] = in[j] * r * (T(1) + w[j]);
      *rho++ = r;
    }
}

template <class T>
void rms_norm_backward(In<T> dy, In<T> x, const T* w, std::int64_t width, const T* rho, Rows<T> dx, T* dw) {
  std::fill_n(dw, width, T(0));
  for (std::int64_t i = 0; i < x.rows; ++i)
    for (std::int64_t c = 0; c < x.columns; c += width) {
      const T *in = x.row(i) + c, *d = dy.row(i) + c;
      T* out = dx.row(i) + c;
      const T r = *rho++;
      T mean = 0;
      for (std::int64_t j = 0; j < width; ++j) {
        const T product = d[j] * in[j] * r;
        dw[j] += product;
        mean += product * (T(1) + w[j]);
      }
      mean /= T(width);
      for (std::int64_t j = 0; j < width; ++j) out[j] = r * (d[j] * (T(1) + w[j]) - in[j] * r * mean);
    }
}

template <class T>
void gated_rms_norm_forward(In<T> x, const T* w, In<T> z, std::int64_t width, double eps, Rows<T> y, T* rho) {
  for (std::int64_t i = 0; i < x.rows; ++i)
    for (std::int64_t c = 0; c < x.columns; c += width) {
      const T *in = x.row(i) + c, *gate = z.row(i) + c;
      T* out = y.row(i) + c;
      const T r = T(1) / std::sqrt(dot(in, in, width) / T(width) + T(eps));
      for (std::int64_t j = 0; j < width; ++j) out[j] = in[j] * r * w[j] * (gate[j] * sigmoid(gate[j]));
      *rho++ = r;
    }
}

template <class T>
void gated_rms_norm_backward(In<T> dy, In<T> x, const T* w, In<T> z, std::int64_t width, const T* rho,
                             Rows<T> dx, T* dw, Rows<T> dz) {
  std::fill_n(dw, width, T(0));
  for (std::int64_t i = 0; i < x.rows; ++i)
    for (std::int64_t c = 0; c < x.columns; c += width) {
      const T *in = x.row(i) + c, *gate = z.row(i) + c, *d = dy.row(i) + c;
      T *out = dx.row(i) + c, *out_gate = dz.row(i) + c;
      const T r = *rho++;
      T mean = 0;
      for (std::int64_t j = 0; j < width; ++j) {
        const T s = sigmoid(gate[j]), unit = in[j] * r, dn = d[j] * gate[j] * s;
        dw[j] += dn * unit;
        mean += dn * w[j] * unit;
        out_gate[j] = d[j] * unit * w[j] * silu_slope(gate[j], s);
        out[j] = dn * w[j];
      }
      mean /= T(width);
      for (std::int64_t j = 0; j < width; ++j) out[j] = r * (out[j] - in[j] * r * mean);
    }
}

template <class T>
void l2norm_forward(In<T> x, std::int64_t width, double eps, Rows<T> y, T* rho) {
  for (std::int64_t i = 0; i < x.rows; ++i)
    for (std::int64_t c = 0; c < x.columns; c += width) {
      const T* in = x.row(i) + c;
      T* out = y.row(i) + c;
      const T r = T(1) / std::sqrt(dot(in, in, width) + T(eps));
      for (std::int64_t j = 0; j < width; ++j) out[j] = in[j] * r;
      *rho++ = r;
    }
}

template <class T>
void l2norm_backward(In<T> dy, In<T> y, std::int64_t width, const T* rho, Rows<T> dx) {
  for (std::int64_t i = 0; i < y.rows; ++i)
    for (std::int64_t c = 0; c < y.columns; c += width) {
      const T *unit = y.row(i) + c, *d = dy.row(i) + c;
      T* out = dx.row(i) + c;
      const T r = *rho++, along = dot(d, unit, width);
      for (std::int64_t j = 0; j < width; ++j) out[j] = r * (d[j] - unit[j] * along);
    }
}

template <class T>
void swiglu_forward(In<T> gate, In<T> up, Rows<T> y) {
  for (std::int64_t i = 0; i < gate.rows; ++i)
    for (std::int64_t j = 0; j < gate.columns; ++j) {
      const T x = gate.row(i)[j];
      y.row(i)[j] = x * sigmoid(x) * up.row(i)[j];
    }
}

template <class T>
void swiglu_backward(In<T> dy, In<T> gate, In<T> up, Rows<T> dgate, Rows<T> dup) {
  for (std::int64_t i = 0; i < gate.rows; ++i)
    for (std::int64_t j = 0; j < gate.columns; ++j) {
      const T x = gate.row(i)[j], s = sigmoid(x), d = dy.row(i)[j];
      dgate.row(i)[j] = d * up.row(i)[j] * silu_slope(x, s);
      dup.row(i)[j] = d * x * s;
    }
}

template <class T>
void sigmoid_gate_forward(In<T> value, In<T> gate, Rows<T> y) {
  const bool shared = gate.columns == 1 && value.columns != 1;
  for (std::int64_t i = 0; i < value.rows; ++i) {
    const T row_gate = shared ? sigmoid(gate.row(i)[0]) : T(0);
    for (std::int64_t j = 0; j < value.columns; ++j)
      y.row(i)[j] = value.row(i)[j] * (shared ? row_gate : sigmoid(gate.row(i)[j]));
  }
}

template <class T>
void sigmoid_gate_backward(In<T> dy, In<T> value, In<T> gate, Rows<T> dvalue, Rows<T> dgate) {
  const bool shared = gate.columns == 1 && value.columns != 1;
  for (std::int64_t i = 0; i < value.rows; ++i) {
    if (shared) {
      const T s = sigmoid(gate.row(i)[0]);
      for (std::int64_t j = 0; j < value.columns; ++j) dvalue.row(i)[j] = dy.row(i)[j] * s;
      dgate.row(i)[0] = dot(dy.row(i), value.row(i), value.columns) * s * (T(1) - s);
      continue;
    }
    for (std::int64_t j = 0; j < value.columns; ++j) {
      const T s = sigmoid(gate.row(i)[j]), d = dy.row(i)[j];
      dvalue.row(i)[j] = d * s;
      dgate.row(i)[j] = d * value.row(i)[j] * s * (T(1) - s);
    }
  }
}

template <class T>
void rotate(In<T> x, const T* cos, const T* sin, const std::int64_t* partner, std::int64_t width, T sign,
            Rows<T> y) {
  for (std::int64_t i = 0; i < x.rows; ++i, cos += width, sin += width)
    for (std::int64_t c = 0; c < x.columns; c += width) {
      const T* in = x.row(i) + c;
      T* out = y.row(i) + c;
      for (std::int64_t j = 0; j < width; ++j) out[j] = in[j] * cos[j] + sign * in[partner[j]] * sin[j];
    }
}

template <class T>
void conv_forward(In<T> u, const T* w, const std::int64_t* sources, std::int64_t taps, Rows<T> sum,
                  Rows<T> y) {
  const std::vector<T> kernel = transposed(w, u.columns, taps);
  for (std::int64_t i = 0; i < u.rows; ++i) {
    T* total = sum.row(i);
    std::fill_n(total, u.columns, T(0));
    for (std::int64_t t = 0; t < taps; ++t) {
      const std::int64_t source = sources[i * taps + t];
      if (source == u.rows) continue;
      const T *in = u.row(source), *tap = kernel.data() + t * u.columns;
      for (std::int64_t c = 0; c < u.columns; ++c) total[c] += tap[c] * in[c];
    }
    for (std::int64_t c = 0; c < u.columns; ++c) y.row(i)[c] = total[c] * sigmoid(total[c]);
  }
}

template <class T>
void conv_backward(In<T> dy_first, In<T> dy_second, Rows<T> sum, In<T> u, const T* w,
                   const std::int64_t* sources, std::int64_t taps, Rows<T> du, T* dw) {
  const std::int64_t split = dy_first.columns;
  const std::vector<T> kernel = transposed(w, u.columns, taps);
  std::vector<T> dkernel(kernel.size(), T(0));
  for (std::int64_t i = 0; i < u.rows; ++i) {
    T* ds = sum.row(i);
    for (std::int64_t c = 0; c < u.columns; ++c) {
      const T d = c < split ? dy_first.row(i)[c] : dy_second.row(i)[c - split];
      ds[c] = d * silu_slope(ds[c], sigmoid(ds[c]));
    }
    for (std::int64_t t = 0; t < taps; ++t) {
      const std::int64_t source = sources[i * taps + t];
      if (source == u.rows) continue;
      const T *in = u.row(source), *tap = kernel.data() + t * u.columns;
      T *out = du.row(source), *dtap = dkernel.data() + t * u.columns;
      for (std::int64_t c = 0; c < u.columns; ++c) {
        out[c] += tap[c] * ds[c];
        dtap[c] += ds[c] * in[c];
      }
    }
  }
  for (std::int64_t c = 0; c < u.columns; ++c)
    for (std::int64_t t = 0; t < taps; ++t) dw[c * taps + t] += dkernel[t * u.columns + c];
}

template <class T>
void delta_gates_forward(In<T> a, In<T> b, const T* a_log, const T* dt_bias, Rows<T> g, Rows<T> beta) {
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t h = 0; h < a.columns; ++h) {
      const T x = a.row(i)[h] + dt_bias[h];
      const T softplus = x > T(20) ? x : std::log1p(std::exp(x));
      g.row(i)[h] = -std::exp(a_log[h]) * softplus;
      beta.row(i)[h] = sigmoid(b.row(i)[h]);
    }
}

template <class T>
void delta_gates_backward(In<T> dg, In<T> dbeta, In<T> a, In<T> g, In<T> beta, const T* a_log,
                          const T* dt_bias, Rows<T> da, Rows<T> db, T* da_log, T* ddt_bias) {
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t h = 0; h < a.columns; ++h) {
      const T x = a.row(i)[h] + dt_bias[h], d = dg.row(i)[h], y = beta.row(i)[h];
      const T dx = -std::exp(a_log[h]) * d * (x > T(20) ? T(1) : sigmoid(x));
      da.row(i)[h] = dx;
      db.row(i)[h] = dbeta.row(i)[h] * y * (T(1) - y);
      da_log[h] += d * g.row(i)[h];
      ddt_bias[h] += dx;
    }
}

template <class T>
void route_forward(In<T> logits, std::int64_t k, Rows<T> p, Rows<T> weights, std::int64_t* experts) {
  const std::int64_t n = logits.columns;
  for (std::int64_t i = 0; i < logits.rows; ++i, experts += k) {
    const T* in = logits.row(i);
    T* out = p.row(i);
    const T largest = *std::max_element(in, in + n);
    T total = 0;
    for (std::int64_t e = 0; e < n; ++e) total += out[e] = std::exp(in[e] - largest);
    for (std::int64_t e = 0; e < n; ++e) out[e] /= total;
    T chosen = 0;
    for (std::int64_t s = 0; s < k; ++s) {
      std::int64_t best = -1;
      for (std::int64_t e = 0; e < n; ++e)
        if (std::find(experts, experts + s, e) == experts + s && (best < 0 || out[e] > out[best])) best = e;
      experts[s] = best;
      chosen += out[best];
    }
    for (std::int64_t s = 0; s < k; ++s) weights.row(i)[s] = out[experts[s]] / chosen;
  }
}

template <class T>
void route_backward(In<T> dweights, In<T> weights, In<T> p, const std::int64_t* experts, Rows<T> dlogits) {
  const std::int64_t k = weights.columns;
  for (std::int64_t i = 0; i < p.rows; ++i, experts += k) {
    std::fill_n(dlogits.row(i), p.columns, T(0));
    const T along = dot(dweights.row(i), weights.row(i), k);
    // The chosen weights are a softmax over the chosen logits alone.
    for (std::int64_t s = 0; s < k; ++s)
      dlogits.row(i)[experts[s]] = weights.row(i)[s] * (dweights.row(i)[s] - along);
  }
}

// NOLINTBEGIN(bugprone-macro-parentheses): T is a type.
#define MESHPARITY_INSTANTIATE(T)                                                                           \
  template void rms_norm_forward<T>(In<T>, const T*, std::int64_t, double, Rows<T>, T*);                    \
  template void rms_norm_backward<T>(In<T>, In<T>, const T*, std::int64_t, const T*, Rows<T>, T*);          \
  template void gated_rms_norm_forward<T>(In<T>, const T*, In<T>, std::int64_t, double, Rows<T>, T*);       \
  template void gated_rms_norm_backward<T>(In<T>, In<T>, const T*, In<T>, std::int64_t, const T*, Rows<T>,  \
                                           T*, Rows<T>);                                                    \
  template void l2norm_forward<T>(In<T>, std::int64_t, double, Rows<T>, T*);                                \
  template void l2norm_backward<T>(In<T>, In<T>, std::int64_t, const T*, Rows<T>);                          \
  template void swiglu_forward<T>(In<T>, In<T>, Rows<T>);                                                   \
  template void swiglu_backward<T>(In<T>, In<T>, In<T>, Rows<T>, Rows<T>);                                  \
  template void sigmoid_gate_forward<T>(In<T>, In<T>, Rows<T>);                                             \
  template void sigmoid_gate_backward<T>(In<T>, In<T>, In<T>, Rows<T>, Rows<T>);                            \
  template void rotate<T>(In<T>, const T*, const T*, const std::int64_t*, std::int64_t, T, Rows<T>);        \
  template void conv_forward<T>(In<T>, const T*, const std::int64_t*, std::int64_t, Rows<T>, Rows<T>);      \
  template void conv_backward<T>(In<T>, In<T>, Rows<T>, In<T>, const T*, const std::int64_t*, std::int64_t, \
                                 Rows<T>, T*);                                                              \
  template void delta_gates_forward<T>(In<T>, In<T>, const T*, const T*, Rows<T>, Rows<T>);                 \
  template void delta_gates_backward<T>(In<T>, In<T>, In<T>, In<T>, In<T>, const T*, const T*, Rows<T>,     \
                                        Rows<T>, T*, T*);                                                   \
  template void route_forward<T>(In<T>, std::int64_t, Rows<T>, Rows<T>, std::int64_t*);                     \
  template void route_backward<T>(In<T>, In<T>, In<T>, const std::int64_t*, Rows<T>);
MESHPARITY_INSTANTIATE(double)
MESHPARITY_INSTANTIATE(float)
#undef MESHPARITY_INSTANTIATE
// NOLINTEND(bugprone-macro-parentheses)

}  // namespace meshparity::impl::cpu

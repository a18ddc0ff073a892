// Row-wise kernels of the fused CPU primitives: norms, gates, rotary embedding, convolution, routing; forward
// and backward, on plain pointers. One pass over memory each; formulas and shapes are those of the ATen
// versions (rms_norm.h, rope.h, conv.h, delta_rule.h, experts.h), which the tests hold them against. T is
// double or float; statistics in T.
#pragma once

#include <cstdint>

namespace meshparity::impl::cpu {

// A matrix of `rows` rows, `stride` apart, each `columns` wide.
template <class T>
struct Rows {
  T* data;
  std::int64_t rows, columns, stride;
  T* row(std::int64_t i) const { return data + i * stride; }
};
template <class T>
using In = Rows<const T>;

// rho [rows * columns/width]: (mean x^2 + eps)^(-1/2) of every group.
template <class T>
void rms_norm_forward(In<T> x, const T* w, std::int64_t width, double eps, Rows<T> y, T* rho);
template <class T>
void rms_norm_backward(In<T> dy, In<T> x, const T* w, std::int64_t width, const T* rho, Rows<T> dx, T* dw);

template <class T>
void gated_rms_norm_forward(In<T> x, const T* w, In<T> z, std::int64_t width, double eps, Rows<T> y, T* rho);
template <class T>
void gated_rms_norm_backward(In<T> dy, In<T> x, const T* w, In<T> z, std::int64_t width, const T* rho,
                             Rows<T> dx, T* dw, Rows<T> dz);

template <class T>
void l2norm_forward(In<T> x, std::int64_t width, double eps, Rows<T> y, T* rho);
template <class T>
void l2norm_backward(In<T> dy, In<T> y, std::int64_t width, const T* rho, Rows<T> dx);

template <class T>
void swiglu_forward(In<T> gate, In<T> up, Rows<T> y);
template <class T>
void swiglu_backward(In<T> dy, In<T> gate, In<T> up, Rows<T> dgate, Rows<T> dup);

// gate has value's columns, or one.
template <class T>
void sigmoid_gate_forward(In<T> value, In<T> gate, Rows<T> y);
template <class T>
void sigmoid_gate_backward(In<T> dy, In<T> value, In<T> gate, Rows<T> dvalue, Rows<T> dgate);

// cos, sin [rows, width]; partner [width]. `sign` 1 rotates, -1 rotates back.
template <class T>
void rotate(In<T> x, const T* cos, const T* sin, const std::int64_t* partner, std::int64_t width, T sign,
            Rows<T> y);

// sources [rows, taps] (`rows` = none), w [columns, taps]; sum keeps the value before SiLU.
template <class T>
void conv_forward(In<T> u, const T* w, const std::int64_t* sources, std::int64_t taps, Rows<T> sum,
                  Rows<T> y);
// dy in two parts side by side; `sum` is overwritten by its gradient; du and dw start at zero.
template <class T>
void conv_backward(In<T> dy_first, In<T> dy_second, Rows<T> sum, In<T> u, const T* w,
                   const std::int64_t* sources, std::int64_t taps, Rows<T> du, T* dw);

template <class T>
void delta_gates_forward(In<T> a, In<T> b, const T* a_log, const T* dt_bias, Rows<T> g, Rows<T> beta);
// da_log and ddt_bias start at zero.
template <class T>
void delta_gates_backward(In<T> dg, In<T> dbeta, In<T> a, In<T> g, In<T> beta, const T* a_log,
                          const T* dt_bias, Rows<T> da, Rows<T> db, T* da_log, T* ddt_bias);

// p [rows, E] softmax; weights and experts [rows, k]. Among equal probabilities the lower index is chosen
// first.
template <class T>
void route_forward(In<T> logits, std::int64_t k, Rows<T> p, Rows<T> weights, std::int64_t* experts);
template <class T>
void route_backward(In<T> dweights, In<T> weights, In<T> p, const std::int64_t* experts, Rows<T> dlogits);

}  // namespace meshparity::impl::cpu

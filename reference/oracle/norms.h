// The norms, one vector at a time. Source: qwen35.md 1.2 and 1.5.
#pragma once

#include "reference/oracle/activations.h"
#include "reference/oracle/dual.h"

namespace meshparity::oracle {

// x / sqrt(mean x^2 + eps).
template <class Scalar>
Vector<Scalar> rms_normalised(const Vector<Scalar>& x, double eps) {
  using std::sqrt;
  Scalar squares = 0;
  for (const Scalar& value : x) squares += value * value;
  return x / sqrt(squares / Scalar(static_cast<double>(x.size())) + Scalar(eps));
}

// Zero-centred: the stored weight is what is added to 1.
template <class Scalar>
Vector<Scalar> rms_norm(const Vector<Scalar>& x, const Vector<Scalar>& weight, double eps) {
  Vector<Scalar> y = rms_normalised(x, eps);
  for (Eigen::Index i = 0; i < y.size(); ++i) y[i] += weight[i] * y[i];
  return y;
}

// Output norm of GatedDeltaNet: plain weight, then silu(gate).
template <class Scalar>
Vector<Scalar> gated_rms_norm(const Vector<Scalar>& x, const Vector<Scalar>& gate,
                              const Vector<Scalar>& weight, double eps) {
  Vector<Scalar> y = rms_normalised(x, eps);
  for (Eigen::Index i = 0; i < y.size(); ++i) y[i] *= weight[i] * silu(gate[i]);
  return y;
}

// (x - mean) / sqrt(variance + eps) * weight + bias, the variance as mean square less squared mean.
template <class Scalar>
Vector<Scalar> layer_norm(const Vector<Scalar>& x, const Vector<Scalar>& weight, const Vector<Scalar>& bias,
                          double eps) {
  using std::sqrt;
  const Scalar count = static_cast<double>(x.size());
  Scalar sum = 0, squares = 0;
  for (const Scalar& value : x) sum += value, squares += value * value;
  const Scalar mean = sum / count, deviation = sqrt(squares / count - mean * mean + Scalar(eps));
  Vector<Scalar> y(x.size());
  for (Eigen::Index i = 0; i < y.size(); ++i) y[i] = (x[i] - mean) / deviation * weight[i] + bias[i];
  return y;
}

// x / sqrt(sum x^2 + 1e-6).
template <class Scalar>
Vector<Scalar> l2_norm(const Vector<Scalar>& x) {
  using std::sqrt;
  Scalar squares = 0;
  for (const Scalar& value : x) squares += value * value;
  return x / sqrt(squares + Scalar(1e-6));
}

}  // namespace meshparity::oracle

// Scalar functions between -inf and inf. Written so that no exponential overflows.
#pragma once

#include <cmath>

#include "reference/oracle/dual.h"

namespace meshparity::oracle {

template <class Scalar>
Scalar sigmoid(const Scalar& x) {
  using std::exp;
  if (value_of(x) >= 0) return Scalar(1) / (Scalar(1) + exp(-x));
  return exp(x) / (Scalar(1) + exp(x));
}

template <class Scalar>
Scalar silu(const Scalar& x) {
  return x * sigmoid(x);
}

// x times the share of a normal distribution below x.
template <class Scalar>
Scalar exact_gelu(const Scalar& x) {
  using std::erfc;
  return x * Scalar(0.5) * erfc(-x / Scalar(std::sqrt(2.0)));
}

// Its approximation x/2 (1 + tanh z), z = sqrt(2/pi) (x + 0.044715 x^3), where (1 + tanh z)/2 = sigmoid(2z).
template <class Scalar>
Scalar tanh_gelu(const Scalar& x) {
  return x * sigmoid<Scalar>(Scalar(2 * std::sqrt(2 / M_PI)) * (x + Scalar(0.044715) * x * x * x));
}

// log(1 + e^x), linear above 20 as the published model computes it (the two differ there by less than e^-20).
template <class Scalar>
Scalar softplus(const Scalar& x) {
  using std::exp;
  using std::log1p;
  return value_of(x) > 20 ? x : log1p(exp(x));
}

// log(sum e^x_i); the largest element leaves first.
template <class Range>
auto log_sum_exp(const Range& values) {
  using std::exp;
  using std::log;
  using Scalar = typename Range::Scalar;
  double largest = value_of(values[0]);
  for (const Scalar& value : values) largest = std::max(largest, value_of(value));
  Scalar sum = 0;
  for (const Scalar& value : values) sum += exp(value - Scalar(largest));
  return log(sum) + Scalar(largest);
}

}  // namespace meshparity::oracle

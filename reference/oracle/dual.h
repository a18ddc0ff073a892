// A number with its derivative along one direction: the oracle's primitives, written for any scalar, give
// exact directional derivatives when they are run on Dual. No backward formula is used, so none can be wrong.
// To give another function a derivative, add one line beside exp.
#pragma once

#include <Eigen/Core>
#include <cmath>

namespace meshparity::oracle {

struct Dual {
  double value = 0;
  double slope = 0;

  Dual() = default;
  Dual(double v, double s = 0) : value(v), slope(s) {}  // NOLINT: constants mix with duals in every formula

  Dual operator-() const { return {-value, -slope}; }
  Dual& operator+=(const Dual& b) { return *this = {value + b.value, slope + b.slope}; }
  Dual& operator-=(const Dual& b) { return *this = {value - b.value, slope - b.slope}; }
  Dual& operator*=(const Dual& b) { return *this = {value * b.value, slope * b.value + value * b.slope}; }
  Dual& operator/=(const Dual& b) {
    return *this = {value / b.value, (slope - value / b.value * b.slope) / b.value};
  }
  friend Dual operator+(Dual a, const Dual& b) { return a += b; }
  friend Dual operator-(Dual a, const Dual& b) { return a -= b; }
  friend Dual operator*(Dual a, const Dual& b) { return a *= b; }
  friend Dual operator/(Dual a, const Dual& b) { return a /= b; }
  bool operator==(const Dual&) const = default;
};

inline Dual exp(const Dual& x) {
  return {std::exp(x.value), std::exp(x.value) * x.slope};
}
inline Dual log(const Dual& x) {
  return {std::log(x.value), x.slope / x.value};
}
inline Dual log1p(const Dual& x) {
  return {std::log1p(x.value), x.slope / (1 + x.value)};
}
inline Dual sqrt(const Dual& x) {
  return {std::sqrt(x.value), x.slope / (2 * std::sqrt(x.value))};
}
inline Dual erfc(const Dual& x) {
  return {std::erfc(x.value), -2 / std::sqrt(M_PI) * std::exp(-x.value * x.value) * x.slope};
}

// The number itself, where a formula branches or sorts.
inline double value_of(double x) {
  return x;
}
inline double value_of(const Dual& x) {
  return x.value;
}

// [rows, columns] in C order, the layout of a linear layer's weight and of tokens by features.
template <class Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class Scalar>
using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;

}  // namespace meshparity::oracle

namespace Eigen {

template <>
struct NumTraits<meshparity::oracle::Dual> : NumTraits<double> {
  using Real = meshparity::oracle::Dual;
  using NonInteger = meshparity::oracle::Dual;
  using Nested = meshparity::oracle::Dual;
  using Literal = double;
  enum {
    IsComplex = 0,
    IsInteger = 0,
    IsSigned = 1,
    RequireInitialization = 1,
    ReadCost = 2,
    AddCost = 2,
    MulCost = 4
  };
};

}  // namespace Eigen

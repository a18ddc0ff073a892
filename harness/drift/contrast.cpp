#include "harness/drift/contrast.h"

#include <algorithm>
#include <cmath>

namespace meshparity::drift {
namespace {

// Regularised incomplete beta function by its continued fraction (Lentz); Abramowitz and Stegun 26.5.8.
double incomplete_beta(double a, double b, double x) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incomplete_beta(b, a, 1 - x);
  const double front =
      std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x)) /
      a;
  constexpr double kTiny = 1e-300;
  double c = 1, d = 1 / std::max(1 - (a + b) * x / (a + 1), kTiny), value = d;
  for (int i = 1; i < 1000; ++i) {
    const double m = i;
    for (const double term : {m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                              -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))}) {
      d = 1 + term * d, c = 1 + term / c;
      if (std::abs(d) < kTiny) d = kTiny;
      if (std::abs(c) < kTiny) c = kTiny;
      d = 1 / d, value *= d * c;
    }
    if (std::abs(d * c - 1) < 1e-14) break;
  }
  return front * value;
}

}  // namespace

double student_tail(double t, double freedom) {
  if (std::isinf(t)) return 0;
  return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t));
}

double Contrast::p() const {
  if (count_ < kFewest) return 1;
  const double n = static_cast<double>(count_), average = mean();
  const double variance = std::max(0.0, (sum_square_ - n * average * average) / (n - 1));
  if (variance == 0) return average == 0 ? 1 : 0;
  return student_tail(average / std::sqrt(variance / n), n - 1);
}

void TwoFeatureFit::add(double y, double f, double g) {
  n_ += 1, y_ += y, f_ += f, g_ += g;
  yy_ += y * y, ff_ += f * f, gg_ += g * g, yf_ += y * f, yg_ += y * g, fg_ += f * g;
}

double TwoFeatureFit::explained() const {
  if (n_ < 16) return 0;
  const double yy = yy_ - y_ * y_ / n_, ff = ff_ - f_ * f_ / n_, gg = gg_ - g_ * g_ / n_;
  const double yf = yf_ - y_ * f_ / n_, yg = yg_ - y_ * g_ / n_, fg = fg_ - f_ * g_ / n_;
  if (yy <= 0) return 0;
  const double determinant = ff * gg - fg * fg;
  if (determinant <= 1e-9 * std::max(ff * gg, 1e-300))
    return ff > 0 ? yf * yf / (ff * yy) : gg > 0 ? yg * yg / (gg * yy) : 0;
  return std::clamp((yf * yf * gg - 2 * yf * yg * fg + yg * yg * ff) / (determinant * yy), 0.0, 1.0);
}

}  // namespace meshparity::drift

#include "harness/drift/agreement.h"

#include <algorithm>
#include <cmath>

#include "harness/drift/tests.h"

namespace meshparity::drift {
namespace {

// Upper tail of chi-square with m degrees of freedom (m need not be whole).
double chi_square_tail(double x, double m) {
  if (m <= 0 || x <= 0) return 1;
  // Wilson and Hilferty: the cube root of chi-square over m is nearly normal.
  const double spread = 2 / (9 * m), z = (std::cbrt(x / m) - (1 - spread)) / std::sqrt(spread);
  return 0.5 * std::erfc(z / std::sqrt(2.0));
}

}  // namespace

void TokenAgreement::add(std::uint32_t id, double sum, double count) {
  Sums& sums = by_id_[id];
  const double square = sum * sum;
  sums.sum += sum, sums.square += square, sums.fourth += square * square;
  sums.count += count, sums.count_square += count * count;
}

void TokenAgreement::conclude(DriftTest& test) const {
  constexpr double kRankVariance = 1.0 / 12;
  double products = 0, pairs = 0, variance = 0, variance_square = 0;
  std::uint64_t ids = 0;
  for (const auto& [id, sums] : by_id_) {
    const double own_pairs = sums.count * sums.count - sums.count_square;
    // Of the products over ordered pairs of samples, had every sample's sum the other sign as likely.
    const double own_variance = 2 * (sums.square * sums.square - sums.fourth);
    if (own_pairs <= 0 || own_variance <= 0) continue;
    ++ids;
    products += (sums.sum * sums.sum - sums.square) / sums.count, pairs += own_pairs / sums.count;
    const double weighed = own_variance / (sums.count * sums.count);
    variance += weighed, variance_square += weighed * weighed;
  }
  double p = 1;
  if (variance > 0) {
    // As a chi-square of as many degrees of freedom as ids count in effect.
    const double freedom = variance * variance / variance_square;
    p = chi_square_tail(freedom + products / std::sqrt(variance) * std::sqrt(2 * freedom), freedom);
  }
  drift::conclude(test, pairs > 0 ? products / pairs / kRankVariance : 0, p, ids);
  test.fired = test.fired && test.effect > 0;
}

}  // namespace meshparity::drift

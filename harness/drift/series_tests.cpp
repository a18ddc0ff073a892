#include "harness/drift/series_tests.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "harness/drift/rank_series.h"

namespace meshparity::drift {
namespace {

std::vector<double> part(const std::vector<double>& values, std::size_t begin, std::size_t end) {
  return {values.begin() + static_cast<std::ptrdiff_t>(begin),
          values.begin() + static_cast<std::ptrdiff_t>(end)};
}

// Residuals of two levels (before and from `at` on), and their sum of magnitudes.
std::vector<double> step_residuals(const std::vector<double>& levels, std::size_t at) {
  const double before = median_of(part(levels, 0, at)), after = median_of(part(levels, at, levels.size()));
  std::vector<double> residuals;
  for (std::size_t i = 0; i < levels.size(); ++i) residuals.push_back(levels[i] - (i < at ? before : after));
  return residuals;
}
std::vector<double> line_residuals(const std::vector<double>& levels, double slope) {
  std::vector<double> residuals;
  for (std::size_t i = 0; i < levels.size(); ++i)
    residuals.push_back(levels[i] - slope * static_cast<double>(i));
  const double middle = median_of(residuals);
  for (double& residual : residuals) residual -= middle;
  return residuals;
}
// Around the least-squares parabola: growth that bends is no correlation of neighbours.
std::vector<double> parabola_residuals(const std::vector<double>& levels) {
  const double n = static_cast<double>(levels.size());
  double mean = 0, linear = 0, square = 0, linear_norm = 0, square_norm = 0;
  // Two polynomials on the steps' places that are orthogonal to each other and to a constant.
  const auto x = [&](std::size_t i) { return static_cast<double>(i) - (n - 1) / 2; };
  const auto q = [&](std::size_t i) { return x(i) * x(i) - (n * n - 1) / 12; };
  for (std::size_t i = 0; i < levels.size(); ++i)
    mean += levels[i] / n, linear += levels[i] * x(i), linear_norm += x(i) * x(i), square += levels[i] * q(i),
        square_norm += q(i) * q(i);
  std::vector<double> residuals;
  for (std::size_t i = 0; i < levels.size(); ++i)
    residuals.push_back(levels[i] - mean - linear / linear_norm * x(i) - square / square_norm * q(i));
  return residuals;
}
double magnitude(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += std::abs(value);
  return sum;
}
// How many independent steps the variance of a mean counts one for: (1 + r) / (1 - r) of neighbours.
double dependence(const std::vector<double>& residuals) {
  const double r = std::clamp(lag_correlation(residuals), 0.0, 0.8);
  return (1 + r) / (1 - r);
}

}  // namespace

std::string series_text(const char* format, double value) {
  char out[64];
  std::snprintf(out, sizeof out, format, value);
  return out;
}

double Series::deviation(const std::vector<double>& residuals, double parameters) const {
  const double n = static_cast<double>(residuals.size());
  const double seen = robust_deviation(residuals) * std::sqrt(n / std::max(1.0, n - parameters));
  return std::max({seen, error, few() ? kStepDeviationOfFew : kStepDeviation});
}

double least_jump(const Series& s) {
  const double n = static_cast<double>(s.steps.size()), middle = median_of(s.levels);
  std::vector<double> residuals;
  for (const double level : s.levels) residuals.push_back(level - middle);
  return std::max(std::log(kLeastRatio), kLeastDeviations * s.deviation(residuals, 1) *
                                             std::sqrt(4 / n * (s.few() ? 1 : dependence(residuals))));
}

Jump jump_of(const Series& s) {
  Jump jump;
  jump.test = {"jump", "logarithm of the ratio of medians",
               false,  false,
               0,      std::log(kLeastRatio),
               1,      kRankProbability,
               0,      s.steps.size(),
               ""};
  if (s.steps.size() < 4) {
    jump.test.detail = "needs four steps";
    return jump;
  }
  const ChangePoint change = change_point(s.levels, 2);
  // The ranks say whether there is a change; where it is, the two medians that leave least.
  const std::size_t n = s.levels.size();
  jump.residue = HUGE_VAL;
  for (std::size_t at = 2; at + 2 <= n; ++at)
    if (const double left = magnitude(step_residuals(s.levels, at)); left < jump.residue)
      jump.residue = left, jump.at = at;
  const std::size_t k = jump.at;
  const std::vector<double> residuals = step_residuals(s.levels, k);
  jump.test.ran = true, jump.test.p = change.p;
  jump.test.effect = median_of(part(s.levels, k, n)) - median_of(part(s.levels, 0, k));
  const double parts = 1 / static_cast<double>(k) + 1 / static_cast<double>(n - k);
  const double deviations =
      std::abs(jump.test.effect) /
      (s.deviation(residuals, 2) * std::sqrt(parts * (s.few() ? 1 : dependence(residuals))));
  jump.test.fired = std::abs(jump.test.effect) >= jump.test.effect_bound && deviations >= kLeastDeviations &&
                    (s.few() || change.p <= kRankProbability);
  jump.test.detail = "at step " + s.number(k) + ", " + series_text("%.3g", deviations) +
                     " standard deviations (bound " + series_text("%g", kLeastDeviations) + ")" +
                     (s.few() ? "; too few steps for the ranks' probability to count" : "");
  return jump;
}

Growth growth_of(const Series& s) {
  Growth growth;
  growth.test = {"growth", "logarithm of the ratio of last to first on the line",
                 false,    false,
                 0,        std::log(kLeastRatio),
                 1,        kTrendProbability,
                 0,        s.steps.size(),
                 ""};
  if (s.steps.size() < kFewForTrend) {
    growth.test.detail = "needs " + std::to_string(kFewForTrend) + " steps";
    return growth;
  }
  growth.slope = trend_of(s.levels).slope;
  const std::vector<double> residuals = line_residuals(s.levels, growth.slope);
  const Trend trend = trend_of(s.levels, lag_correlation(parabola_residuals(s.levels)));
  growth.residue = magnitude(residuals);
  growth.test.ran = true, growth.test.p = trend.p;
  growth.test.effect = growth.slope * static_cast<double>(s.steps.size() - 1);
  growth.test.fired =
      std::abs(growth.test.effect) >= growth.test.effect_bound && trend.p <= kTrendProbability;
  growth.test.detail =
      "Theil and Sen's slope " + series_text("%.3g", 100 * std::expm1(growth.slope)) + " % a step";
  return growth;
}

// Steps whose typical sequence is far from the median step's.
DriftTest apart_of(const Series& s, std::vector<std::size_t>& apart) {
  DriftTest test{"steps apart",
                 "logarithm of the ratio to the median step",
                 true,
                 false,
                 0,
                 std::log(kLeastApart),
                 0,
                 0,
                 0,
                 s.steps.size(),
                 ""};
  const double middle = median_of(s.levels);
  std::vector<double> residuals;
  for (const double level : s.levels) residuals.push_back(level - middle);
  const double deviation = s.deviation(residuals, 1);
  for (std::size_t i = 0; i < residuals.size(); ++i) {
    const double far = std::abs(residuals[i]);
    if (far > std::abs(test.effect)) test.effect = residuals[i];
    if (far >= test.effect_bound && far >= kLeastDeviations * std::max(deviation, s.steps[i].level_error))
      apart.push_back(i);
  }
  test.detail = "a step's level deviates by " + series_text("%.2g", 100 * std::expm1(deviation)) +
                " % from the median; " + series_text("%g", kLeastDeviations) + " times that is the bound";
  test.fired = !apart.empty() && apart.size() * 5 <= s.steps.size() * 2;
  if (!test.fired) apart.clear();
  return test;
}

DriftTest spikes_of(const Series& s, std::vector<std::size_t>& spikes) {
  DriftTest test{"spikes", "a step's sum of |d| over that without its outlying sequences",
                 true,     false,
                 1,        kLeastInflation,
                 0,        0,
                 0,        s.steps.size(),
                 ""};
  for (std::size_t i = 0; i < s.steps.size(); ++i) {
    test.effect = std::max(test.effect, s.steps[i].inflation);
    if (s.steps[i].inflation >= kLeastInflation) spikes.push_back(i);
  }
  test.fired = !spikes.empty();
  return test;
}

}  // namespace meshparity::drift

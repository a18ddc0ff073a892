#include "harness/drift/noise.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "harness/drift/contrast.h"
#include "harness/drift/metrics.h"
#include "harness/drift/pairing.h"

namespace meshparity::drift {
namespace {

// Smallest ratio of medians that is called above the noise: two sides of equal noise differ from each other
// as two runs of one side do; 1.25 lets one of them be noisier by half ((1 + 1.5^2) / 2 = 1.27^2).
constexpr double kRatio = 1.25;
constexpr double kChance = 1e-3;

struct Spread {
  Contrast logs;             // of per-sample medians of |d|
  double square = 0;         // of the same
  MagnitudeHistogram sizes;  // of all tokens
  double sum = 0;
  std::uint64_t tokens = 0;

  void add(const Pair& pair) {
    std::vector<double> magnitudes;
    for (std::size_t i = 0; i < pair.train.size(); ++i) {
      magnitudes.push_back(std::abs(pair.train[i] - pair.rollout[i]));
      sizes.add(magnitudes.back()), sum += magnitudes.back(), ++tokens;
    }
    const auto middle = magnitudes.begin() + static_cast<std::ptrdiff_t>(magnitudes.size() / 2);
    std::nth_element(magnitudes.begin(), middle, magnitudes.end());
    if (*middle <= 0) return;  // a sample that is equal has no logarithm; the medians of all tokens tell it
    const double value = std::log(*middle);
    logs.add(value), square += value * value;
  }
  double mean() const { return tokens ? sum / static_cast<double>(tokens) : 0; }
  double variance_of_mean() const {
    const double n = static_cast<double>(logs.count());
    return n < 2 ? 0 : std::max(0.0, (square - n * logs.mean() * logs.mean()) / (n - 1)) / n;
  }
};

std::string text(const char* format, double a, double b, double c, double d) {
  char out[320];
  std::snprintf(out, sizeof out, format, a, b, c, d);
  return out;
}

}  // namespace

DriftNoise compare_spreads(const SampleSource& train, const SampleSource* rollout, const SampleSource& run,
                           const SampleSource* other_run) {
  Spread drift, floor;
  for_each_pair(train, rollout, [&](const Pair& pair) { drift.add(pair); });
  for_each_pair(run, other_run, [&](const Pair& pair) { floor.add(pair); });
  DriftNoise result;
  result.given = true;
  result.floor_mean = floor.mean(), result.floor_median = floor.sizes.quantile(0.5);
  const double median = drift.sizes.quantile(0.5);
  result.ratio_mean = result.floor_mean > 0 ? drift.mean() / result.floor_mean : HUGE_VAL;
  result.ratio_median = result.floor_median > 0 ? median / result.floor_median : HUGE_VAL;
  result.share_of_worst = drift.sum > 0 ? drift.sizes.sum_above_quantile(0.999) / drift.sum : 0;
  if (drift.sum == 0 || floor.sum == 0) {
    result.above = drift.sum > 0;
    result.sentence = drift.sum == 0
                          ? "Within your noise: the two sides are equal."
                          : "Above your noise: two runs of one side are equal, train and rollout are not.";
    return result;
  }
  // Welch's t of the logarithms of the samples' medians.
  const double variance = drift.variance_of_mean() + floor.variance_of_mean();
  const double fewer = static_cast<double>(std::min(drift.logs.count(), floor.logs.count()));
  result.p = variance > 0 && fewer >= 2
                 ? student_tail((drift.logs.mean() - floor.logs.mean()) / std::sqrt(variance), fewer - 1)
                 : 1;
  const double robust = std::exp(drift.logs.mean() - floor.logs.mean());
  result.above = robust >= kRatio && result.p <= kChance;
  result.sentence =
      text(result.above ? "Above your noise: median |d| is %.3g times that of two runs of one side (mean "
                          "%.3g times; the worst 0.1 %% of tokens carry %.3g %%; p %.1g)."
                        : "Within your noise: median |d| is %.3g times that of two runs of one side (mean "
                          "%.3g times; the worst 0.1 %% of tokens carry %.3g %%; p %.1g).",
           result.ratio_median, result.ratio_mean, 100 * result.share_of_worst, result.p);
  return result;
}

DriftNoise compare_with_noise(const SampleSource& train, const SampleSource* rollout,
                              const SampleSource& noise, bool of_rollout) {
  const SampleSource& base = of_rollout && rollout ? *rollout : train;
  DriftNoise result = of_rollout ? compare_spreads(train, rollout, noise, &base)
                                 : compare_spreads(train, rollout, base, &noise);
  result.name = noise.name(), result.side = of_rollout ? "rollout" : "train";
  return result;
}

}  // namespace meshparity::drift

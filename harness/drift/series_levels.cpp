#include "harness/drift/series_levels.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "harness/drift/rank_series.h"

namespace meshparity::drift {
namespace {

using Reference = std::array<double, kProbabilityBins>;  // expected |d| of a token by its probability

constexpr std::uint64_t kFewestInBin = 50;
constexpr std::size_t kFewestSequences = 8, kFewestForSpread = 5;
// A sequence is outlying where it is so many times its step's median one, and so many deviations (of
// logarithms) above it.
constexpr double kOutlyingRatio = 4, kOutlyingDeviations = 5, kMostOutlying = 0.05, kUnusualMean = 1.5;

// The median over steps of a bin's mean |d|: neither one step nor a few sequences can move it. Where that is
// 0, the mean over all tokens.
Reference reference_of(const std::vector<StepData>& steps) {
  Reference reference{};
  for (std::size_t bin = 0; bin < kProbabilityBins; ++bin) {
    std::vector<double> means;
    double sums = 0, tokens = 0;
    for (const StepData& step : steps) {
      double sum = 0;
      std::uint64_t count = 0;
      for (const DriftSums& block : step.blocks)
        sum += static_cast<double>(block.sums[bin]), count += block.tokens[bin];
      if (count >= kFewestInBin) means.push_back(sum / static_cast<double>(count));
      sums += sum, tokens += static_cast<double>(count);
    }
    reference[bin] = median_of(means);
    if (reference[bin] <= 0 && tokens > 0) reference[bin] = sums / tokens;
  }
  return reference;
}

double sum_of(const DriftSums& sums) {
  double sum = 0;
  for (const float part : sums.sums) sum += static_cast<double>(part);
  return sum;
}
double expected_of(const DriftSums& sums, const Reference& reference) {
  double expected = 0;
  for (std::size_t bin = 0; bin < kProbabilityBins; ++bin)
    expected += static_cast<double>(sums.tokens[bin]) * reference[bin];
  return expected;
}

// Logarithms of what is there over what is expected; nothing where nothing is expected.
std::vector<double> log_ratios(const std::vector<DriftSums>& parts, const Reference& reference) {
  std::vector<double> ratios;
  for (const DriftSums& sums : parts)
    if (const double expected = expected_of(sums, reference); expected > 0)
      ratios.push_back(std::log(std::max(sum_of(sums) / expected, 1e-9)));
  return ratios;
}

// How far the step's mean is above its typical block, as a logarithm: what few sequences do.
double mean_gap(const StepData& data, const Reference& reference, double middle) {
  double all = 0, expected = 0;
  for (const DriftSums& sequence : data.sequences)
    all += sum_of(sequence), expected += expected_of(sequence, reference);
  return all > 0 && expected > 0 ? std::log(all / expected) - middle : 0;
}

// `unusual`: the step's mean is further above its typical block than other steps' means are; then the largest
// sequences are asked even where the spread within the step would excuse them.
void find_outlying(SeriesStep& step, const StepData& data, const Reference& reference, bool unusual) {
  std::vector<double> ratios = log_ratios(data.sequences, reference);
  if (ratios.size() < kFewestSequences) return;
  const double middle = median_of(ratios);
  const double spread = unusual ? 0 : kOutlyingDeviations * robust_deviation(ratios);
  double bound = middle + std::max(std::log(kOutlyingRatio), spread);
  const auto most =
      static_cast<std::size_t>(std::max(1.0, kMostOutlying * static_cast<double>(data.sequences.size())));
  if (unusual && ratios.size() > most) {  // at most so many
    std::nth_element(ratios.begin(), ratios.begin() + static_cast<std::ptrdiff_t>(most), ratios.end(),
                     std::greater<>());
    bound = std::max(bound, ratios[most]);
  }
  double all = 0, excess = 0, worst = 0;
  for (const DriftSums& sequence : data.sequences) {
    const double sum = sum_of(sequence), expected = expected_of(sequence, reference);
    all += sum;
    if (expected <= 0 || std::log(std::max(sum / expected, 1e-9)) <= bound) continue;
    ++step.outlying;
    excess += sum - expected * std::exp(middle);
    if (sum / expected > worst && sequence.name >= 0)
      worst = sum / expected, step.outlying_name = data.names[static_cast<std::size_t>(sequence.name)];
  }
  if (step.outlying <= most && all > excess && excess > 0) step.inflation = all / (all - excess);
}

}  // namespace

std::vector<SeriesStep> series_levels(const std::vector<StepData>& data) {
  const Reference reference = reference_of(data);
  std::vector<SeriesStep> steps;
  std::vector<double> levels, gaps;
  for (const StepData& d : data) {
    SeriesStep step;
    step.number = d.number, step.name = d.name;
    step.tokens = d.metrics.tokens, step.samples = d.metrics.samples;
    step.mean_abs = d.metrics.mean_abs, step.max_abs = d.metrics.max_abs, step.k3 = d.metrics.k3;
    step.share_of_worst = d.metrics.share_of_worst;
    if (!d.metrics.quantiles.empty()) step.median_abs = d.metrics.quantiles[0].second;
    const std::vector<double> ratios = log_ratios(d.blocks, reference);
    step.level = ratios.empty() ? 0 : std::exp(median_of(ratios));
    // A median's standard error is 1.2533 times a mean's, for Gaussian values.
    if (ratios.size() >= kFewestForSpread)
      step.level_error = 1.2533 * robust_deviation(ratios) / std::sqrt(static_cast<double>(ratios.size()));
    gaps.push_back(mean_gap(d, reference, ratios.empty() ? 0 : median_of(ratios)));
    levels.push_back(step.level);
    steps.push_back(std::move(step));
  }
  const double usual = median_of(gaps),
               far = std::max(std::log(kUnusualMean), kOutlyingDeviations * robust_deviation(gaps));
  for (std::size_t i = 0; i < data.size(); ++i)
    find_outlying(steps[i], data[i], reference, data.size() >= 5 && gaps[i] >= usual + far);
  const double middle = median_of(levels);
  for (SeriesStep& step : steps) step.level = middle > 0 ? step.level / middle : step.level > 0 ? 1e9 : 1;
  return steps;
}

}  // namespace meshparity::drift

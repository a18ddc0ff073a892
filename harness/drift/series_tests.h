// The tests of a series: jump, growth, steps apart, spikes. Bounds and why: docs/drift-series.md#tests.
#pragma once

#include <string>
#include <vector>

#include "harness/types/series_result.h"

namespace meshparity::drift {

// Fixed on synthetic series of seeds below 1000.
inline constexpr double kLeastRatio = 1.25;   // of levels: as for "above your noise"
inline constexpr double kLeastApart = 1.5;    // of one step's level over the median's
inline constexpr double kLeastInflation = 2;  // of a step's sum of |d|: a few sequences carry half of it
inline constexpr double kLeastDeviations = 5;
inline constexpr double kRankProbability = 0.05, kTrendProbability = 1e-3;
inline constexpr std::size_t kFewForRanks = 10, kFewForTrend = 7;
// Steps of one level differ by more than their sequences' spread says (other prompts): so much is assumed,
// more where few steps show little.
inline constexpr double kStepDeviation = 0.02, kStepDeviationOfFew = 0.06;

struct Series {
  std::vector<SeriesStep> steps;
  std::vector<double> levels;  // logarithms
  double error = 0;            // of a level, from its sequences' spread: the median over steps
  bool few() const { return steps.size() < kFewForRanks; }
  // Standard deviation of a step's level around what `residuals` were taken from, with so many parameters.
  double deviation(const std::vector<double>& residuals, double parameters) const;
  std::string number(std::size_t at) const { return std::to_string(steps[at].number); }
};

struct Jump {
  DriftTest test;
  std::size_t at = 0;  // the first step behind it
  double residue = 0;  // sum of |residuals|
};
struct Growth {
  DriftTest test;
  double slope = 0, residue = 0;  // a step, of the logarithm
};

Jump jump_of(const Series& s);
Growth growth_of(const Series& s);
// Steps whose typical block is far from the median step's; empty where the test does not fire.
DriftTest apart_of(const Series& s, std::vector<std::size_t>& apart);
DriftTest spikes_of(const Series& s, std::vector<std::size_t>& spikes);
// The smallest lasting change in the middle of the series that would be called, as a logarithm.
double least_jump(const Series& s);

std::string series_text(const char* format, double value);

}  // namespace meshparity::drift

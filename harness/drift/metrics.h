// The numbers over all compared tokens, one pass, memory independent of their count.
#pragma once

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "harness/drift/pairing.h"
#include "harness/types/drift_result.h"

namespace meshparity::drift {

// |d| by its exponent and the first six bits of its fraction: a quantile is right to 1/64 of itself.
class MagnitudeHistogram {
 public:
  void add(double magnitude);
  std::uint64_t count() const { return count_; }
  double quantile(double level) const;            // 0 where nothing was added
  double sum_above_quantile(double level) const;  // of the magnitudes above it

 private:
  static constexpr int kLowest = -60, kHighest = 10, kPerOctave = 64;
  std::uint64_t count_ = 0, zeros_ = 0;
  std::vector<std::uint64_t> bins_;
  std::vector<double> sums_;
};

class MetricsAccumulator {
 public:
  void add(const Pair& pair);
  DriftMetrics finish() const;
  std::vector<DriftToken> worst() const;  // largest |d| first, at most 10

 private:
  DriftMetrics totals_;
  double sum_abs_ = 0, sum_ = 0, sum_square_ = 0, sum_k3_ = 0, sum_weight_ = 0, sum_weight_square_ = 0;
  // Moments of logprobs and of probabilities: a, b, aa, bb, ab.
  std::array<double, 5> logs_{}, probabilities_{};
  MagnitudeHistogram magnitudes_;
  std::vector<std::pair<double, DriftToken>> worst_;  // a heap, smallest first
};

}  // namespace meshparity::drift

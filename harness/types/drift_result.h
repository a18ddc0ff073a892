// What harness/drift finds in a pair of logprob dumps: counts, metrics, tables, tests and a verdict. Rendered
// by reports/drift.cpp; every number is explained in docs/drift.md.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "harness/types/drift_plots.h"

namespace meshparity {

// A fact found before any statistics. `fault`: it alone makes the dumps unfit or wrong.
struct DriftCheck {
  std::string name;  // "positive logprobs"
  std::uint64_t count = 0;
  std::uint64_t of = 0;  // of how many (tokens or samples)
  std::string detail;
  bool fault = false;
};

// Over all compared tokens; d = train - rollout, in nats.
struct DriftMetrics {
  std::uint64_t tokens = 0, samples = 0;
  double mean_abs = 0, mean = 0, max_abs = 0;
  double k1 = 0, k2 = 0, k3 = 0;  // estimates of KL(rollout || train) from tokens that the rollout drew
  double chi_square = 0, effective_samples = 0;  // E[w^2] - 1; (sum w)^2 / (n sum w^2); w = exp(d)
  double mean_ratio = 0,
         mean_ratio_error = 0;  // E[w] and its standard error: 1 where the rollout drew the tokens
  double perplexity_train = 0, perplexity_rollout = 0;
  double pearson = 0, pearson_probability = 0;       // of logprobs, of probabilities
  double share_of_worst = 0;                         // of sum |d|, carried by the worst 0.1 % of tokens
  std::uint64_t equal = 0;                           // d == 0
  std::vector<std::pair<double, double>> quantiles;  // (level, |d|)
};

struct DriftToken {
  std::string sample;
  std::int64_t slot = 0, id = -1;
  double train = 0, rollout = 0;
};

// |d| in one part of the tokens.
struct DriftBin {
  std::string label;
  std::uint64_t tokens = 0;
  double mean_abs = 0, median_abs = 0;
};

// One test of structure. `effect` is a difference of mean ranks of |d| (0.5 = all above all), unless `unit`
// says otherwise; fires where effect and p both pass their bounds.
struct DriftTest {
  std::string name, unit;
  bool ran = false, fired = false;
  double effect = 0, effect_bound = 0, p = 1, p_bound = 0, explained = 0;
  std::uint64_t clusters = 0;
  std::string detail;  // why it did not run, or what it found
  // It found what it looks for in a shape that no fault leaves: blames nothing, but explains what it
  // explains.
  bool harmless = false;
};

struct DriftVerdict {
  std::string
      cause;  // "rounding", "temperature", "top-p", "token shift", "mask", "stale weights", "layout", ...
  bool fault = false;
  double confidence = 0;
  std::string sentence;
  std::vector<std::string> evidence;
  std::string next;  // the next discriminating run
};

// Against a second run of one side.
struct DriftNoise {
  bool given = false, above = false;
  std::string name, side, sentence;
  double floor_mean = 0, floor_median = 0, ratio_mean = 0, ratio_median = 0, share_of_worst = 0, p = 1;
};

struct DriftInput {
  std::string side, name, format;  // side: "train", "rollout" or "both"
  std::vector<std::string> notes;
};

struct DriftResult {
  std::vector<DriftInput> inputs;
  std::uint64_t samples_train = 0, samples_rollout = 0, samples_paired = 0;
  std::uint64_t tokens_tested = 0;  // kept for the tests of structure
  std::vector<DriftCheck> checks;
  DriftMetrics metrics;
  std::vector<DriftToken> worst;
  std::vector<std::pair<std::string, std::vector<DriftBin>>> tables;
  std::vector<DriftTest> tests;
  DriftVerdict verdict;
  DriftNoise noise;
  DriftPlots plots;
  double seconds = 0;
};

}  // namespace meshparity

// What harness/drift finds in a series of steps: one line per step, what changed over the steps, and what the
// first bad step looks like by itself. Rendered by reports/series.cpp; docs/drift-series.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/types/drift_result.h"

namespace meshparity {

struct SeriesStep {
  std::int64_t number = 0;
  std::string name;  // its file, as found
  std::uint64_t tokens = 0, samples = 0;
  double mean_abs = 0, median_abs = 0, max_abs = 0, k3 = 0;  // nats
  double share_of_worst = 0;   // of sum |d|, carried by the worst 0.1 % of tokens
  double level = 0;            // of the typical sequence, 1 = the series' median step
  double level_error = 0;      // standard error of log(level), from the spread of its sequences; 0 = unknown
  double inflation = 1;        // sum of |d| over what it would be without the outlying sequences
  std::uint64_t outlying = 0;  // sequences far above the step's others
  std::string outlying_name;   // the worst of them
  bool bad = false;
};

struct SeriesResult {
  std::vector<SeriesStep> steps;     // in the order of their numbers
  std::vector<std::string> notices;  // gaps in the numbers, files left out
  DriftVerdict verdict;              // cause: flat, jump, growth, steps apart, spikes
  std::vector<DriftTest> tests;
  int first_bad = -1;  // index of a step, -1: none
  int judged = -1;     // index of the step that was judged by itself
  DriftVerdict judged_verdict;
  double seconds = 0;
};

}  // namespace meshparity

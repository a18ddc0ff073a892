// Many steps of train against rollout: did the drift change over them, when, and how? Method and thresholds:
// docs/drift-series.md.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "harness/drift/pairing.h"
#include "harness/types/series_result.h"

namespace meshparity::drift {

inline constexpr std::size_t kProbabilityBins =
    6;  // of exp((train + rollout) / 2): 0.01, 0.1, 0.5, 0.9, 0.99
inline constexpr std::size_t kFewestSteps = 3;

// Sums of |d| of one sequence or of one block of kBlockTokens consecutive tokens, by the probability of its
// tokens.
struct DriftSums {
  std::array<float, kProbabilityBins> sums{};
  std::array<std::uint32_t, kProbabilityBins> tokens{};
  std::int32_t name = -1;  // index in StepData::names, -1: not kept
};

// What is kept of a step: 52 bytes a sequence and a block, at most kMostKept of each (drawn evenly).
struct StepData {
  static constexpr std::size_t kMostKept = 4096, kBlockTokens = 256;
  std::int64_t number = 0;
  std::string name;
  DriftMetrics metrics;
  std::vector<DriftSums> sequences, blocks;
  std::vector<std::string> names;  // of the sequences with the largest mean |d|
};

// Reads a step; one source with both sides (rollout null) or two. Throws as for_each_pair does.
StepData read_step(std::int64_t number, const std::string& name, const SampleSource& train,
                   const SampleSource* rollout);

// Levels, tests and verdict over at least kFewestSteps steps, given in the order of their numbers. `judged`
// of the result names the step worth judging by itself: the first bad one, else the last.
SeriesResult judge_series(const std::vector<StepData>& steps);

// "6 steps are missing: 3, 5 to 8, ..." where most numbers are a fixed distance apart; "" where none is
// missing.
std::string missing_numbers(const std::vector<std::int64_t>& numbers);

}  // namespace meshparity::drift

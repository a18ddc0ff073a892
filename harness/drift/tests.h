// The tests on which the verdict rests. Each has a bound on its effect and one on its probability; where both
// are derived: docs/drift.md#tests.
#pragma once

#include <string>
#include <vector>

#include "harness/drift/tokens.h"
#include "harness/types/drift_result.h"

namespace meshparity::drift {

// Per test; a pair undergoes about 60 tests, so a benign pair is called faulty by chance in fewer than 1e-4
// of cases.
inline constexpr double kProbability = 1e-6;
// Difference of mean ranks of |d|: 0.08 = a token of the region is above one outside it in 58 % of pairs,
// which a ratio of Gaussian scales of 1.3 gives.
inline constexpr double kRankEffect = 0.08;

// Wrong values, whatever their place: temperature, top-p, shift, fills, one-sidedness, size, coherence.
DriftTest test_shift(const KeptTokens& kept);
DriftTest test_top_p(const KeptTokens& kept);
DriftTest test_fill(const KeptTokens& kept);
DriftTest test_temperature(const KeptTokens& kept);
DriftTest test_one_sided(const KeptTokens& kept);
DriftTest test_size(const KeptTokens& kept);
DriftTest test_same_token(const KeptTokens& kept);
DriftTest test_same_sample(const KeptTokens& kept);
DriftTest test_experts(const KeptTokens& kept);  // how many were chosen otherwise
DriftTest test_routing(const KeptTokens& kept);  // whether |d| is large where they were

// Where |d| is large: candidate cuts of context parallelism, document starts, prompt ends, chunks, growth.
std::vector<DriftTest> test_edges(const KeptTokens& kept);
DriftTest test_start(const KeptTokens& kept);
DriftTest test_prompt_edge(const KeptTokens& kept);
DriftTest test_chunk(const KeptTokens& kept);
DriftTest test_growth(const KeptTokens& kept);

// A test that did not run yet, with its bounds.
DriftTest bounded(std::string name, std::string unit, double effect_bound, double p_bound = kProbability);
// Fires where effect and probability pass; too few clusters: did not run.
void conclude(DriftTest& test, double effect, double p, std::uint64_t clusters);

}  // namespace meshparity::drift

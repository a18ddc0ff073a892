// Train against rollout: from two dumps of per-token logprobs to numbers, tests and a verdict. Computes no
// model and reads no file: dumps come as SampleSource. Method and thresholds: docs/drift.md.
#pragma once

#include "harness/drift/metrics.h"
#include "harness/drift/pairing.h"
#include "harness/drift/tokens.h"
#include "harness/types/drift_result.h"

namespace meshparity::drift {

// Judges one source with both sides (rollout null) or two. Memory: tokens.h's kept tokens and an index of the
// rollout's samples, whatever the dumps' size. Throws InputError where there is nothing to compare or a
// counting logprob is NaN.
DriftResult analyse(const SampleSource& train, const SampleSource* rollout);

// The parts of it, for tests.
std::vector<DriftCheck> checks_of(const PairingCounts& counts, const DriftMetrics& metrics);
std::vector<DriftTest> run_tests(const KeptTokens& kept);
DriftVerdict decide(const std::vector<DriftCheck>& checks, const DriftMetrics& metrics,
                    const std::vector<DriftTest>& tests);
std::vector<std::pair<std::string, std::vector<DriftBin>>> tables_of(const KeptTokens& kept);

}  // namespace meshparity::drift

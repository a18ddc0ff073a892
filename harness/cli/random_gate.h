// meshparity gate --random: the cases it draws, and how a failing one is shrunk.
#pragma once

#include "harness/cli/sweep.h"
#include "harness/run/case_options.h"
#include "harness/run/shrink.h"

namespace meshparity::cli {

// The first `count` random cases of options.seed, restricted by the other options.
run::Expansion random_cases(const run::CaseOptions& options, int count);

// A smaller case that fails in the same way, each trial in a worker process: the same state for ERROR and
// TIMEOUT, else at least one of the checks that failed.
run::Shrunk shrink_case(const CaseSpec& spec, const CaseResult& result, const SweepOptions& options,
                        const run::ShrinkLimits& limits = {});

}  // namespace meshparity::cli

// What a failing case is explained with: the case is run once more with everything recorded that a run can
// show (weights as loaded, activations, the gradients of later steps), and harness/diagnose names the first
// divergence and the cause.
#pragma once

#include <functional>
#include <vector>

#include "harness/cli/scenario.h"
#include "harness/types/verdict.h"
#include "impl/train/program.h"

namespace meshparity::cli {

// Runs the ranks of a case.
using RunRanks = std::function<std::vector<impl::RankOutput>(const CaseSpec& spec)>;

// Adds the lines `first` and `cause` to every failing verdict of the case. Never makes a verdict better or
// worse; what cannot be explained says so in its `cause` line.
void explain_case(const CaseSpec& spec, const std::shared_ptr<const Scenario>& scenario,
                  const RunRanks& run_ranks, CaseResult& result);

// The same from what the ranks of a case without steps emitted already, activations among it.
void explain_outputs(const CaseSpec& spec, const Scenario& scenario, const Expected& expected,
                     const std::vector<impl::RankOutput>& outputs, CaseResult& result);

}  // namespace meshparity::cli

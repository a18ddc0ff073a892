// A rollout case: training's forward on its mesh, then the same weights resharded and the same sequences
// prefilled and decoded on the rollout mesh, twice; judge_rollout.h judges all of it.
#pragma once

#include "harness/cli/run_case.h"
#include "impl/train/program.h"

namespace meshparity::cli {

// Runs and judges a case that has a rollout mesh. Throws InputError for products that it has not.
CaseResult run_rollout_case(const CaseSpec& spec, const RunProducts& products);

// What one rank does of the rollout.
impl::RankOutput roll_out(const CaseSpec& spec, const Scenario& scenario, impl::Engine& engine);

}  // namespace meshparity::cli

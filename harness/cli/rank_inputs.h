// What the rank program of a case is given.
#pragma once

#include "harness/cli/scenario.h"
#include "impl/train/program.h"

namespace meshparity::cli {

// Of a rollout case training's forward alone.
impl::RankInputs rank_inputs(const CaseSpec& spec, const Scenario& scenario);
// The ranks as threads of this process.
std::vector<impl::RankOutput> run_threads(const CaseSpec& spec, const impl::RankInputs& inputs);
// The ranks as the case's engine runs them, threads or processes. Throws InputError where this build or
// machine cannot.
std::vector<impl::RankOutput> run_ranks(const CaseSpec& spec, const Scenario& scenario);
// How the engine of threads adds up.
impl::InProcessOptions in_process_options(const CaseSpec& spec);
// The case's fault planted in otherwise empty seams.
impl::Seams seams_of(const CaseSpec& spec);

}  // namespace meshparity::cli

// What the rank programs of a case are given, and the ranks run with it.
#pragma once

#include <vector>

#include "harness/cli/scenario.h"
#include "harness/types/precision.h"
#include "impl/rollout/program.h"
#include "impl/train/program.h"

namespace meshparity::cli {

// Of a rollout case training's forward alone.
impl::RankInputs rank_inputs(const CaseSpec& spec, const Scenario& scenario);
// How the engine of threads adds up.
impl::InProcessOptions in_process_options(const CaseSpec& spec);
// The case's fault planted in otherwise empty seams; and a dtype policy after it.
impl::Seams seams_of(const CaseSpec& spec);
impl::Seams seams_of(const CaseSpec& spec, const PrecisionPolicy& policy);

// The ranks as threads of this process, of training as many as its mesh has, of rollout as many as the larger
// of both meshes. Gives what each emitted, by rank.
std::vector<impl::RankOutput> run_threads(const impl::RankInputs& inputs, const impl::Seams& seams,
                                          const impl::InProcessOptions& options = {});
std::vector<impl::RankOutput> run_threads(const impl::RolloutInputs& inputs, const impl::Seams& seams,
                                          const impl::InProcessOptions& options = {});
// The ranks of training as the case's engine runs them, threads or processes. Throws InputError where this
// build or machine cannot.
std::vector<impl::RankOutput> run_ranks(const CaseSpec& spec, const Scenario& scenario);

}  // namespace meshparity::cli

// What the rank program of a case is given.
#pragma once

#include "harness/cli/scenario.h"
#include "impl/train/program.h"

namespace meshparity::cli {

impl::RankInputs rank_inputs(const CaseSpec& spec, const Scenario& scenario);
// The ranks as threads of this process.
std::vector<impl::RankOutput> run_threads(const CaseSpec& spec, const impl::RankInputs& inputs);
// The case's fault planted in otherwise empty seams.
impl::Seams seams_of(const CaseSpec& spec);

}  // namespace meshparity::cli

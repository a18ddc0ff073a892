// Puts together what the ranks of a case emitted and judges every tensor, the replicas and the placement.
#pragma once

#include <vector>

#include "harness/cli/scenario.h"
#include "harness/layout/layout.h"
#include "harness/tolerance/policy.h"
#include "harness/types/verdict.h"
#include "impl/train/program.h"

namespace meshparity::cli {

// `outputs[rank]` is what that rank emitted. Checks and tensors are filtered as the case asks; a tensor that
// is missing, extra, of the wrong shape or not finite is INVALID; a check that compared no element is
// UNTRUSTED.
std::vector<CheckResult> judge_case(const CaseSpec& spec, const Scenario& scenario, const Expected& expected,
                                    int steps, const std::vector<impl::RankOutput>& outputs);

// With the sizes that bounds of gradients scale with, as expected.
tolerance::Context context_of(const CaseSpec& spec, const Scenario& scenario, const Expected& expected);

// On which rank the worst element lies, and where there: "on tp1 local [17,146]".
std::string local_place(const layout::LayoutMap& map, const Mesh& mesh, const std::string& key,
                        const Shape& shape, std::int64_t flat);

// The global tensors of a case, by path below /expected (for `run --dump`).
std::map<std::string, HostTensor> gather_case(const CaseSpec& spec, const Scenario& scenario,
                                              const std::vector<impl::RankOutput>& outputs);

}  // namespace meshparity::cli

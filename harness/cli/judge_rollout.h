// Judges a rollout case: what the ranks of both meshes emitted, put together by the layouts of the
// specification. Everything is the check `rollout`; its tensors are the paths of impl/rollout/program.h and
//   rollout/train_difference  [N, 2]: logprobs with temperature, and with top-p as well, against the same
//   made
//                             of the training ranks' own logits
//   rollout/repeat            the same rollout a second time, bit by bit on every rank
//   rollout/replicas          elements that several ranks of the rollout hold, bit by bit
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "harness/cli/expected_rollout.h"
#include "harness/types/verdict.h"
#include "impl/train/program.h"

namespace meshparity::cli {

struct RolloutRuns {
  std::shared_ptr<const std::vector<impl::RankOutput>> trained;  // the forward of the training mesh
  std::vector<impl::RankOutput> rolled, again;                   // the same rollout twice
};

// Discrete results first (routes), then weights, logits and what a sampler makes of them. A failing tensor of
// tokens says which token is worst and whether it was prefilled or decoded. What is missing, extra, of the
// wrong shape or not finite is INVALID.
std::vector<CheckResult> judge_rollout(const CaseSpec& spec, const Scenario& scenario,
                                       const ExpectedRollout& expected, const RolloutRuns& runs);

// The global tensors of a rollout by path. Throws RunError where they cannot be put together.
std::map<std::string, HostTensor> gather_rollout(const CaseSpec& spec, const Scenario& scenario,
                                                 const std::vector<impl::RankOutput>& outputs);

}  // namespace meshparity::cli

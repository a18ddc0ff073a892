// What a rollout case expects: the golden's logits and what a sampler makes of them, and of what no golden
// holds the reference's rollout, once it was shown to have the golden's logits.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "harness/cli/scenario.h"
#include "harness/tolerance/policy.h"
#include "harness/types/case.h"
#include "reference/reference.h"

namespace meshparity::cli {

struct ExpectedRollout {
  // "rollout/logits", "rollout/logprobs", "rollout/sampling_logprobs", "rollout/in_support" and of a mixture
  // of experts "rollout/routes/layers.<i>". Not the weights: those are the scenario's, bit by bit.
  std::map<std::string, HostTensor> tensors;
  bool from_golden = false;       // logits and what follows from them
  reference::TensorMap replayed;  // the experts that training chose, with replay=on; else empty
  // Who provided it: "golden" or "reference".
  std::string against(const std::string& key) const;
};

// Computed once for neighbouring cases. Throws RunError where the reference's rollout has not the golden's
// logits.
std::shared_ptr<const ExpectedRollout> expected_rollout(const std::shared_ptr<const Scenario>& scenario,
                                                        const CaseSpec& spec);

// Of a case's logits: the three tensors of reference::sampled.
std::map<std::string, HostTensor> sampled_hosts(const HostTensor& logits, const Batch& batch,
                                                const RolloutSpec& spec);

// What bounds of a rollout case depend on.
tolerance::Context rollout_context(const CaseSpec& spec, const Scenario& scenario);

}  // namespace meshparity::cli

// Train against rollout of a model of ours, each under a dtype policy: what the policies differ by, place by
// place. Both engines run in float64 with the policies' roundings planted in their seams.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "harness/cli/scenario.h"
#include "harness/drift/attribution.h"
#include "harness/types/precision.h"

namespace meshparity::cli {

// The runs of one case that has a rollout mesh, under any policies.
class PolicyRuns {
 public:
  explicit PolicyRuns(const CaseSpec& spec);

  // What training, or rollout, computes under a policy: global tensors by path.
  using Tensors = std::map<std::string, HostTensor>;
  Tensors train(const PrecisionPolicy& policy, bool activations) const;
  Tensors rollout(const PrecisionPolicy& policy) const;

  // Logprobs at the case's temperature of the tokens behind the prompts, in the batch's order.
  std::vector<double> train_logprobs(const Tensors& train) const;
  std::vector<double> rollout_logprobs(const Tensors& rollout) const;
  // Their indices in their documents.
  std::vector<std::int64_t> positions() const;

 private:
  std::vector<double> counted(const TensorView& logprobs) const;

  CaseSpec spec_;
  std::shared_ptr<const Scenario> scenario_;
  std::vector<std::int64_t> tokens_;  // whose label counts
};

// Both sides under their policies; with `each_place` every choice is exchanged alone, from both sides.
Attribution model_drift(const CaseSpec& spec, const PrecisionPolicy& train, const PrecisionPolicy& rollout,
                        bool each_place);

}  // namespace meshparity::cli

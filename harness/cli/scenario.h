// A scenario: what a case computes, whatever its mesh: model, weights, batch, and the expected results (a
// golden's, and where it holds only a part, the live reference's).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "golden/store.h"
#include "harness/tolerance/policy.h"
#include "harness/types/case.h"
#include "harness/types/placement.h"
#include "reference/reference.h"

namespace meshparity::cli {

struct Scenario {
  ModelConfig config;
  Batch batch;
  TrainSpec train;
  PlacementTable placements;
  std::map<std::string, HostTensor> host_weights;  // as stored
  reference::TensorMap weights;                    // in the case's dtype
  std::map<std::string, HostTensor> golden;        // by path below /expected; empty without a golden
  std::string golden_file;
  std::map<std::string, double> conditions;  // measured beforehand (--apart); else empty
  int rounded_sides = 1;                     // tolerance::Context
};

// Reads or generates the scenario of a case. The last few are kept, so that neighbouring cases of a sweep
// share them.
std::shared_ptr<const Scenario> load_scenario(const CaseSpec& spec);

// Model, batch and placements of a case that has no golden; no weights.
std::shared_ptr<Scenario> scenario_without_weights(const CaseSpec& spec);

// The seed of a case's generated weights.
std::uint64_t weight_seed(const CaseSpec& spec);

// Does the case's model bring a checkpoint?
bool has_checkpoint(const CaseSpec& spec);

// Expected values by path below /expected, with who provided each.
class Expected {
 public:
  Expected(std::shared_ptr<const Scenario> scenario, const CaseSpec& spec, int steps);
  // What the reference computed before, whose owner must outlive this.
  Expected(std::shared_ptr<const Scenario> scenario, const CaseSpec& spec,
           const std::map<std::string, TensorView>& stored);
  // Nothing if neither the golden nor the reference holds the key.
  std::optional<TensorView> find(const std::string& key) const;
  std::string against(const std::string& key) const;  // "golden" or "reference"
  std::vector<std::string> keys() const;

 private:
  bool golden_covers(const CaseSpec& spec, int steps) const;
  bool of_this_loss(const std::string& key) const;  // false for values of terms that the case's loss has not
  std::shared_ptr<const Scenario> scenario_;
  std::vector<std::string> terms_;  // that the case reports
  bool golden_gradients_ = false;   // the golden's gradients are of this case's loss and dtype
  std::shared_ptr<const std::map<std::string, HostTensor>> reference_;
  const std::map<std::string, TensorView>* stored_ = nullptr;
};

// What the policy's bounds depend on beside the tensor, as far as case and scenario say it.
tolerance::Context context_of(const CaseSpec& spec, const Scenario& scenario);

// Steps a case takes: its own, or as many as the golden holds; a rollout case none.
int steps_of(const CaseSpec& spec, const Scenario& scenario);

}  // namespace meshparity::cli

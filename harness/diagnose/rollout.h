// Why a rollout is not what training says: from which of its tensors are wrong, at which tokens, and what
// they look like instead. To add a cause: a rule in rollout.cpp that says what such a mistake leaves behind.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "harness/diagnose/diagnose.h"
#include "harness/types/batch.h"
#include "harness/types/mesh.h"
#include "harness/types/rollout.h"

namespace meshparity::diagnose {

struct RolloutTensor {
  TensorView got, want;
  bool wrong = false;  // outside its bound
};

struct RolloutEvidence {
  const Batch& batch;  // as it is trained
  const RolloutSpec& spec;
  const Mesh& mesh;  // of the rollout
  // Whole tensors by path ("rollout/logits", "rollout/weights/<name>"); of weights and routes those that are
  // wrong.
  std::map<std::string, RolloutTensor> tensors;
};

// The cause of the first thing that is wrong in the order in which an engine comes to it: weights, experts,
// the model, what is said of its logits. Nothing where nothing is wrong or no rule fits.
std::optional<Cause> rollout_cause(const RolloutEvidence& evidence);

}  // namespace meshparity::diagnose

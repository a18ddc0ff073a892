// The tolerance policy: which bound for which tensor, and why. Numbers come from scenarios/tolerance.toml
// (values read by the scenarios loader); every row is derived in docs/tolerance.md. Bounds are never fitted
// to what was seen. To add a check: a row in tolerance.toml, its derivation in docs/tolerance.md, and a line
// in policy.cpp where its scale is not simply the tensor's own norm.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/model_config.h"
#include "harness/types/tensor.h"
#include "harness/types/tolerance_rows.h"

namespace meshparity::tolerance {

// What a bound may depend on besides the tensor itself.
struct Context {
  ModelConfig config;
  std::int64_t tokens = 0;  // N
  std::vector<std::int64_t>
      token_ids;         // of the batch: which embedding rows something reaches (empty: unknown)
  double grad_norm = 0;  // global norm of the expected gradients
  // The terms of the loss that is differentiated, weighted, without their signs: what the backward signal
  // starts from. More than grad_norm where the gradients cancel as a whole. 0: unknown.
  double loss_size = 0;
  TrainSpec train;
  int step = 0;                  // optimizer step a weight is judged after
  DType dtype = DType::float64;  // the narrower of the two sides: it chooses the row
  std::string tensor;  // checkpoint name (grads, weights): some families have slices nothing reaches
  // The side that is judged computes every document alone, so a token on which no loss depends has gradients
  // of exactly zero at every layer. False for code of unknown origin (docs/decisions/0003-idle-experts.md).
  bool documents_alone = true;
  // How many sides of the comparison are rounded in `dtype`: 2 where a float32 run is held against another,
  // whose roundings are independent. Counts in rows that rest on a condition.
  int rounded_sides = 1;
  // Measured conditions of this scenario by check, where it has no golden (docs/tolerance.md, Other
  // scenarios). They can widen a float64 row up to kLargestRelative, never narrow it; a row that rests on a
  // condition takes the measured one instead of its own. "weights/step<k>/<name>": absolute change of the
  // norm of that tensor per relative change of all weights at the start.
  std::map<std::string, double> conditions;
  double temperature = 1;  // of rollout_logprobs
};

// No float64 bound is wider than this, whatever the condition: what is wrong shows from here on.
inline constexpr double kLargestRelative = 1e-9;

// But for weights after the second step and later of a scenario whose own reference is known to move further
// under a rounding (docs/decisions/0004-measured-conditions.md).
inline constexpr double kLargestOfLaterSteps = 1e-6;

// The two numbers of compare::Bound without depending on it: cli turns one into the other, field by field.
struct Limits {
  double norm = 0;
  double element = 0;
  std::string row;
  std::string why;
  // Slices of dimension 0 that nothing reaches (experts without a token, embedding rows of ids never used):
  // no rounding reaches them either, so they must be exactly zero. Other zeros may be cancellations.
  std::vector<std::int64_t> exact_zero_slices;
};

// Limits for `check` (logits, logprobs, loss, denominators, grads, grad_norm, activations, ...) on the tensor
// `want`. Weights after AdamW steps need the expected gradient: `weight_limits`. Throws InputError where the
// policy has no row.
Limits limits(const Policy& policy, const std::string& check, const Context& context, const TensorView& want);

// The gradient bound carried through AdamW to step 1; from step 2 on the cap. `want_grad`: the expected
// gradient of step 1, same shape as `want` (null: worst case over the gradient's size).
Limits weight_limits(const Policy& policy, const Context& context, const TensorView& want,
                     const TensorView* want_grad);

// By how much more than one rounding per operation a model of this size can lose: the square root of its
// longest reduction times its depth over the five layers at which conditions were measured. Derivation:
// docs/tolerance.md#condition.
double rounding_growth(const ModelConfig& config, std::int64_t tokens);

}  // namespace meshparity::tolerance

// The tolerance policy: which bound for which tensor, and why. Numbers come from scenarios/tolerance.toml
// (values read by the scenarios loader); every row is derived in docs/tolerance.md. Bounds are never fitted
// to what was seen.
#pragma once

#include <map>
#include <string>

#include "harness/types/batch.h"
#include "harness/types/model_config.h"
#include "harness/types/tensor.h"

namespace meshparity::tolerance {

// One row "check/dtype" of tolerance.toml.
struct Row {
  double relative = 0;  // times ||want||
  double floor = 0;     // times grad_norm (grads) or times the largest element (others): the least scale
  double cap = 1e-9;    // no float64 bound may exceed cap * largest element (or cap * 1e-3 * grad_norm)
  std::string doc;      // anchor in docs/tolerance.md
};

struct Policy {
  std::map<std::string, Row> rows;
};

// What a bound may depend on besides the tensor itself.
struct Context {
  ModelConfig config;
  std::int64_t tokens = 0;  // N
  double grad_norm = 0;     // global norm of the expected gradients
  TrainSpec train;
  int step = 0;  // optimizer step a weight is judged after
  DType dtype = DType::float64;
};

// The two numbers of compare::Bound without depending on it: cli turns one into the other.
struct Limits {
  double norm = 0;
  double element = 0;
  std::string row;
  std::string why;
};

// Limits for `check` on a tensor with the given L2 norm and largest element. Weights after AdamW steps need
// the expected gradient of each step: `weight_limits`. Throws InputError where the policy has no row.
Limits limits(const Policy& policy, const std::string& check, const Context& context, const TensorView& want);

// The gradient bound carried through AdamW: per element, up to step k. `want_grads` (may be empty: worst case
// over |g|).
Limits weight_limits(const Policy& policy, const Context& context, const TensorView& want,
                     const TensorView* want_grad);

}  // namespace meshparity::tolerance

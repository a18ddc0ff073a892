// The factor that all gradients of a run have in common, judged as a number of its own: a wrong normalisation
// multiplies every gradient alike and can leave the reported loss right. The gate and `compare` share it.
#pragma once

#include <string>
#include <vector>

#include "harness/compare/projection.h"
#include "harness/tolerance/policy.h"
#include "harness/types/verdict.h"

namespace meshparity::cli {

// Name of the line: "loss/gradient_scale/<loss>", <loss> what the gradients are taken of.
std::string gradient_scale_key(const std::string& loss);

struct GradientScale {
  compare::Projection projection;  // of every gradient that is whole, on what is expected
  std::string missing;  // why there is no factor: the first gradient that is not whole; empty = all are
  std::string against;  // where the expected gradients come from
  std::int64_t gradients = 0;  // compared

  // got and want of the same shape.
  void add(const TensorView& got, const TensorView& want);
  // Appends the verdict: the factor against 1, in words where it is another; INVALID where a gradient is not
  // whole. Says nothing where no gradient is expected and none came, and where the gradients cancel as a
  // whole.
  void judge(const tolerance::Policy& policy, const tolerance::Context& context, const std::string& loss,
             std::vector<CheckResult>& results) const;
};

}  // namespace meshparity::cli

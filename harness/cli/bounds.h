// One place where a tensor's path becomes its check, its bound and its verdict: the gate, `run` and the
// reference's own proof all judge through it.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "harness/compare/compare.h"
#include "harness/tolerance/policy.h"
#include "harness/types/verdict.h"

namespace meshparity::cli {

// "grads/model.norm.weight" -> check grads, tensor model.norm.weight; "step2/weights/x" -> weights, step2/x;
// "loss/token_mean" -> loss, loss/token_mean; "logits" -> logits, logits.
// "loss/gradient_scale/<loss>", which no golden holds, is the factor that all gradients together carry.
struct KeyName {
  std::string check;
  std::string tensor;
  int step = 0;
};
KeyName name_of(const std::string& key);

// What bounds of gradients scale with: the norm of all of them, and the size of the loss they are taken of.
// `expected`: an expected number by its path ("grad_norm", "loss/aux"), or nothing.
void set_backward_size(tolerance::Context& context, const std::string& loss,
                       const std::function<std::optional<double>(const std::string& key)>& expected);

// The bound of a tensor, and the step it is judged after. "trace/<key>" has the bound of <key>.
compare::Bound bound_of(const tolerance::Policy& policy, tolerance::Context context, const std::string& key,
                        const TensorView& want, const TensorView* want_grad);

// Judges got against want by the policy. `want_grad` (weights only): the expected gradient of that parameter.
CheckResult judge_tensor(const tolerance::Policy& policy, tolerance::Context context, const std::string& key,
                         const TensorView& got, const TensorView& want, const TensorView* want_grad);

}  // namespace meshparity::cli

// What a dump holds against what it should hold: every expected value, and the inputs it was computed from.
// Nothing here trusts the dump: what is missing, extra, empty, zero or not a number is a verdict, never a
// pass and never a crash. To judge a new kind of dataset: a rule in bounds.cpp for its bound, its name in
// kChecks, nothing else.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "golden/store.h"
#include "harness/tolerance/policy.h"
#include "harness/types/model_config.h"
#include "harness/types/verdict.h"

namespace meshparity::cli {

// The checks of `compare`, in the order in which they are judged and printed.
inline constexpr std::array<const char*, 9> kCompareChecks = {
    "inputs", "logits", "logprobs", "loss", "grad_norm", "grads", "grads_mtp", "weights", "activations"};

struct CompareRules {
  std::vector<std::string> checks;  // empty = all that apply
  std::string tensor = "*";         // glob over tensor names
  std::optional<DType> dtype;  // dtype the dump was computed in, where that is narrower than what it stores
  tolerance::Policy policy;
  std::optional<ModelConfig> config;  // none: two dumps that carry no config
  TrainSpec train;
  std::string want_name = "golden";  // how messages call the other side
};

// A dump, its hashes verified where it has them. Unlike golden::read it accepts any datasets: what they are
// worth is judged. Throws InputError for a damaged file or another schema.
golden::Store read_dump(const std::string& path);

// What bounds of the gradients below expected/<grads> scale with, from what the expected side says of `loss`,
// whose gradients they are. The norm is the side's own number where it has one for them.
void set_backward_size(tolerance::Context& context, const golden::Store& want, const std::string& loss,
                       const std::string& grads);

// One verdict per dataset of either side.
std::vector<CheckResult> judge_dump(const golden::Store& got, const golden::Store& want,
                                    const CompareRules& rules);

// The verdicts on what the dump was computed from: ids, labels, offsets, weights and configuration, each
// where the dump holds it (SKIP where it does not).
std::vector<CheckResult> judge_inputs(const golden::Store& got, const golden::Store& want,
                                      const CompareRules& rules);

}  // namespace meshparity::cli

// How much a scenario amplifies roundings: measured where bounds derived from the packaged models' conditions
// do not speak, on models and batches without a golden.
#pragma once

#include <map>
#include <string>

#include "harness/cli/scenario.h"

namespace meshparity::cli {

// Condition by check (logits, logprobs, loss, grads, grad_norm): relative change of what the reference
// computes, divided by that of its weights, the largest of several random perturbations. Norms as in
// docs/tolerance.md#condition. Weights after steps, as "weights/step<k>/<name>": absolute change of the
// tensor's norm per relative change. Runs the reference; the last scenario's is kept.
const std::map<std::string, double>& measured_conditions(const Scenario& scenario, const CaseSpec& spec);

}  // namespace meshparity::cli

// How much a scenario amplifies roundings: measured where bounds derived from the packaged models' conditions
// do not speak, on models and batches without a golden.
#pragma once

#include <map>
#include <string>

#include "harness/cli/scenario.h"
#include "harness/types/generator.h"

namespace meshparity::cli {

// A relative change of the weights far above the noise of a run in this dtype, and small enough for the
// answer to be linear.
double perturbation_of(DType dtype);

// Random factor 1 + size * r of element i of a weight in one draw, r uniform in [-1, 1].
double perturbed_factor(const Generator& generator, std::int64_t i, double size);
Generator perturbation_generator(std::uint64_t draw, const std::string& weight);

// The norm that a quantity's change is relative to, from its own L2 norm. `backward_size`: norm of all
// gradients, or the size of the loss where that is larger.
double condition_scale(const std::string& check, double norm, std::int64_t elements, double backward_size);

// Outputs are rounded as weights are, independently, and are not perturbed: the two add up in squares.
inline constexpr double kOutputsToo = 1.4142135623730951;

// Condition by check (logits, logprobs, loss, grads, grad_norm): relative change of what the reference
// computes, divided by that of its weights, the largest of several random perturbations. Norms as in
// docs/tolerance.md#condition; `loss_size` as in tolerance::Context. Weights after steps, as
// "weights/step<k>/<name>": absolute change of the tensor's norm per relative change. Runs the reference; the
// last scenario's is kept.
const std::map<std::string, double>& measured_conditions(const Scenario& scenario, const CaseSpec& spec,
                                                         double loss_size);

}  // namespace meshparity::cli

#include "harness/cli/condition.h"

#include <algorithm>
#include <cmath>

#include "harness/cli/bounds.h"
#include "harness/types/generator.h"

namespace meshparity::cli {
namespace {

// Far above float64's own noise, and small enough for AdamW, which divides small gradients by their own size,
// to answer linearly.
constexpr double kPerturbation = 1e-10;
constexpr int kDraws = 4;
// Outputs are rounded as weights are, independently: the two add up in squares.
const double kOutputsToo = std::sqrt(2.0);

reference::TensorMap run_once(const Scenario& scenario, const CaseSpec& spec,
                              const reference::TensorMap& weights) {
  reference::RunOptions options;
  options.loss = spec.loss, options.steps = steps_of(spec, scenario);
  return reference::run(scenario.config, weights, scenario.batch, scenario.train, options);
}

// Every element times 1 + kPerturbation * r, r uniform in [-1, 1].
reference::TensorMap perturbed(const reference::TensorMap& weights, std::uint64_t draw) {
  reference::TensorMap out;
  for (const auto& [name, weight] : weights) {
    const Generator generator(draw, "condition/" + name);
    at::Tensor factor = at::empty({weight.numel()}, at::kDouble);
    for (std::int64_t i = 0; i < weight.numel(); ++i)
      factor.data_ptr<double>()[i] =
          1 + kPerturbation * (2 * generator.uniform(static_cast<std::uint64_t>(i)) - 1);
    out.emplace(name, weight * factor.view(weight.sizes()).to(weight.scalar_type()));
  }
  return out;
}

double norm_of(const at::Tensor& x) {
  return x.to(at::kDouble).norm().item<double>();
}

// The norm that a change is relative to.
double scale_of(const std::string& check, const at::Tensor& x, double grad_norm) {
  if (check == "grads") return std::max(norm_of(x), 1e-3 * grad_norm);
  if (check == "logprobs" || check == "loss")
    return std::max(norm_of(x), std::sqrt(static_cast<double>(x.numel())));
  return norm_of(x);
}

}  // namespace

const std::map<std::string, double>& measured_conditions(const Scenario& scenario, const CaseSpec& spec) {
  static std::string kept_for;
  static std::map<std::string, double> kept;
  const std::string key = spec.model + "\n" + spec.batch + "\n" + std::to_string(spec.seed) + "\n" +
                          spec.loss + "\n" + std::to_string(spec.steps);
  if (key == kept_for) return kept;
  kept.clear();
  const auto base = run_once(scenario, spec, scenario.weights);
  const double grad_norm = base.at("grad_norm").item<double>();
  for (std::uint64_t draw = 1; draw <= kDraws; ++draw) {
    const auto start = perturbed(scenario.weights, draw);
    const auto moved = run_once(scenario, spec, start);
    for (const auto& [name, value] : base) {
      const std::string check = name_of(name).check;
      if (check == "weights") {
        // What the steps made of the difference, in the weights' own unit, without what was put in.
        const std::string tensor = name_of(name).tensor, parameter = tensor.substr(tensor.find('/') + 1);
        const at::Tensor put_in = start.at(parameter) - scenario.weights.at(parameter);
        double& change = kept["weights/" + tensor];
        change = std::max(change, kOutputsToo * norm_of(moved.at(name) - value - put_in) / kPerturbation);
        continue;
      }
      const double scale = scale_of(check, value, grad_norm);
      if (name.rfind("denominators/", 0) == 0 || scale == 0) continue;
      double& condition = kept[check];
      condition = std::max(condition, kOutputsToo * norm_of(moved.at(name) - value) / scale / kPerturbation);
    }
  }
  kept_for = key;
  return kept;
}

}  // namespace meshparity::cli

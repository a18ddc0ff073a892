#include "harness/cli/condition.h"

#include <algorithm>
#include <cmath>

#include "harness/cli/bounds.h"
#include "harness/types/generator.h"

namespace meshparity::cli {
namespace {

const double kPerturbation = perturbation_of(DType::float64);
constexpr int kDraws = 4;

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
    const Generator generator = perturbation_generator(draw, name);
    at::Tensor factor = at::empty({weight.numel()}, at::kDouble);
    for (std::int64_t i = 0; i < weight.numel(); ++i)
      factor.data_ptr<double>()[i] = perturbed_factor(generator, i, kPerturbation);
    out.emplace(name, weight * factor.view(weight.sizes()).to(weight.scalar_type()));
  }
  return out;
}

double norm_of(const at::Tensor& x) {
  return x.to(at::kDouble).norm().item<double>();
}

}  // namespace

double perturbation_of(DType dtype) {
  return dtype == DType::float64 ? 1e-10 : 1e-5;
}

Generator perturbation_generator(std::uint64_t draw, const std::string& weight) {
  return Generator(draw, "condition/" + weight);
}

double perturbed_factor(const Generator& generator, std::int64_t i, double size) {
  return 1 + size * (2 * generator.uniform(static_cast<std::uint64_t>(i)) - 1);
}

double condition_scale(const std::string& check, double norm, std::int64_t elements, double backward_size) {
  if (check == "grads") return std::max(norm, 1e-3 * backward_size);
  if (check == "grad_norm") return backward_size;
  if (check == "logprobs" || check == "loss") return std::max(norm, std::sqrt(static_cast<double>(elements)));
  return norm;
}

const std::map<std::string, double>& measured_conditions(const Scenario& scenario, const CaseSpec& spec,
                                                         double loss_size) {
  static std::string kept_for;
  static std::map<std::string, double> kept;
  const std::string key = spec.model + "\n" + spec.batch + "\n" + std::to_string(spec.seed) + "\n" +
                          spec.loss + "\n" + std::to_string(spec.steps);
  if (key == kept_for) return kept;
  kept.clear();
  const auto base = run_once(scenario, spec, scenario.weights);
  const double backward_size = std::max(base.at("grad_norm").item<double>(), loss_size);
  for (std::uint64_t draw = 1; draw <= kDraws; ++draw) {
    const auto start = perturbed(scenario.weights, draw);
    const auto moved = run_once(scenario, spec, start);
    for (const auto& [name, value] : base) {
      const std::string check = name_of(name).check;
      if (check == "weights") {
        // What the steps made of the difference, without what was put in.
        const std::string tensor = name_of(name).tensor, parameter = tensor.substr(tensor.find('/') + 1);
        const at::Tensor put_in = start.at(parameter) - scenario.weights.at(parameter);
        double& change = kept["weights/" + tensor];
        change = std::max(change, kOutputsToo * norm_of(moved.at(name) - value - put_in) / kPerturbation);
        continue;
      }
      const double scale = condition_scale(check, norm_of(value), value.numel(), backward_size);
      if (name.rfind("denominators/", 0) == 0 || scale == 0) continue;
      double& condition = kept[check];
      condition = std::max(condition, kOutputsToo * norm_of(moved.at(name) - value) / scale / kPerturbation);
    }
  }
  kept_for = key;
  return kept;
}

}  // namespace meshparity::cli

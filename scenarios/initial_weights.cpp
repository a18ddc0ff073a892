#include "scenarios/initial_weights.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <thread>
#include <vector>

#include "harness/types/cut.h"
#include "harness/types/generator.h"

namespace meshparity::scenarios {
namespace {

// f(i) for every i below n. Each value is a function of its index, so threads change nothing but the time.
template <class F>
void for_each_index(std::int64_t n, F&& f) {
  constexpr std::int64_t kWorthAThread = std::int64_t{1} << 20;
  const std::int64_t threads =
      std::clamp<std::int64_t>(n / kWorthAThread, 1, std::max(1U, std::thread::hardware_concurrency()));
  const auto run = [&f](Range range) {
    for (std::int64_t i = range.begin; i < range.end; ++i) f(i);
  };
  std::vector<std::jthread> others;
  for (std::int64_t t = 1; t < threads; ++t) others.emplace_back(run, cut(n, threads, t));
  run(cut(n, threads, 0));
}

// Three antipodal pairs give at least three logits >= 0 for any token, so a row near zero is never among the
// top two.
constexpr std::int64_t kPairs = 3;
constexpr std::int64_t kLeastExpertsForPairs = 8;

void fill_router(const Generator& generator, const Generator& pair, const Shape& shape, double* w) {
  const std::int64_t experts = shape[0], width = shape[1];
  for (std::int64_t i = 0; i < experts * width; ++i)
    w[i] = generator.normal(i) * 1.5 / std::sqrt(static_cast<double>(width));
  if (experts < kLeastExpertsForPairs) return;
  for (std::int64_t j = 0; j < kPairs; ++j) {
    const double scale = 0.9 + 0.2 * pair.uniform(j);
    for (std::int64_t k = 0; k < width; ++k) w[(2 * j + 1) * width + k] = -w[2 * j * width + k] * scale;
  }
  for (std::int64_t i = (experts - 1) * width; i < experts * width; ++i) w[i] = 0.01 * generator.normal(i);
}

// Matrices whose elements are normal / sqrt(fan_in), times two for the head.
void fill_matrix(const Generator& generator, const Shape& shape, bool head, double* w) {
  const double root = std::sqrt(static_cast<double>(shape.back()));
  for_each_index(shape_numel(shape), [&](std::int64_t i) {
    w[i] = (head ? 2 * generator.normal(i) : generator.normal(i)) / root;
  });
}

// Of the vision tower: biases and norms (plain, around 1) are far from their usual 0 and 1, so that mistakes
// show.
void fill_vision(const Generator& generator, std::string_view name, const Shape& shape, double* w) {
  const std::int64_t n = shape_numel(shape);
  const bool bias = name.ends_with(".bias"), norm = !bias && shape.size() == 1;
  std::int64_t fan_in = 1;
  if (!name.ends_with("pos_embed.weight"))
    for (std::size_t d = 1; d < shape.size(); ++d) fan_in *= shape[d];
  const double root = std::sqrt(static_cast<double>(fan_in));
  for (std::int64_t i = 0; i < n; ++i) {
    const double normal = generator.normal(i);
    w[i] = bias ? 0.3 * normal : norm ? 1 + 0.3 * normal : normal / root;
  }
}

// Of config.json's initializer_range at which norms are as in the packaged goldens.
constexpr double kUsualRange = 0.02;

HostTensor weight(const ParameterInfo& parameter, std::uint64_t seed, double initializer_range) {
  HostTensor tensor = HostTensor::zeros(DType::float64, parameter.shape);
  double* w = tensor.as<double>();
  const std::int64_t n = tensor.numel();
  const std::string_view name = parameter.name;
  const Generator generator(seed, "weights/" + parameter.name);
  const auto each = [&](auto value) { for_each_index(n, [&](std::int64_t i) { w[i] = value(i); }); };
  if (name.ends_with(".A_log")) {
    const double low = std::log(0.002), high = std::log(2.5);
    each([&](std::int64_t i) {
      return low + (high - low) * (static_cast<double>(i) + generator.uniform(i)) / static_cast<double>(n);
    });
  } else if (name.ends_with(".mlp.gate.weight")) {
    fill_router(generator, Generator(seed, "weights/" + parameter.name + "/pair"), parameter.shape, w);
  } else if (name.ends_with(".linear_attn.norm.weight")) {
    each([&](std::int64_t i) { return 1 + 0.3 * generator.normal(i); });
  } else if (name.starts_with("model.visual.")) {
    fill_vision(generator, name, parameter.shape, w);
  } else if (name.ends_with(".q_norm.weight") || name.ends_with(".k_norm.weight")) {
    each([&](std::int64_t i) { return 0.3 * (initializer_range / kUsualRange) * generator.normal(i); });
  } else if (name.ends_with("norm.weight") || name.find(".pre_fc_norm_") != std::string_view::npos) {
    each([&](std::int64_t i) { return 0.3 * generator.normal(i); });
  } else if (name.ends_with(".dt_bias") || name.ends_with(".conv1d.weight")) {
    each([&](std::int64_t i) { return 0.5 * generator.normal(i); });
  } else if (name.ends_with("embed_tokens.weight")) {
    each([&](std::int64_t i) { return generator.normal(i); });
  } else {
    fill_matrix(generator, parameter.shape, name == "lm_head.weight", w);
  }
  return tensor;
}

}  // namespace

HostTensor initial_weight(const ModelConfig& config, const ParameterInfo& parameter, std::uint64_t seed) {
  return weight(parameter, seed, config.initializer_range);
}

std::map<std::string, HostTensor> initial_weights(const ModelConfig& config, std::uint64_t seed) {
  std::map<std::string, HostTensor> weights;
  for (const auto& parameter : parameters_of(config))
    weights.emplace(parameter.name, weight(parameter, seed, config.initializer_range));
  return weights;
}

}  // namespace meshparity::scenarios

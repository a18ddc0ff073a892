#include "impl/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace meshparity::impl {
namespace {

// One value per element of the flat buffer, constant over each parameter.
template <class Value>
at::Tensor per_element(const ShardedParameters& parameters, Value&& value) {
  at::Tensor out = at::empty_like(parameters.values());
  for (const auto& e : parameters.entries()) out.slice(0, e.offset, e.offset + e.numel).fill_(value(*e.row));
  return out;
}

// Made by the first step: a run without steps has none of it.
struct AdamWState {
  at::Tensor first, second;  // moments
  at::Tensor keep;           // 1 - lr * decay per element

  void make(const ShardedParameters& parameters, const TrainSpec& train) {
    if (first.defined()) return;
    first = at::zeros_like(parameters.values());
    second = at::zeros_like(parameters.values());
    keep = per_element(
        parameters, [&](const PlanRow& row) { return row.decays ? 1 - train.lr * train.weight_decay : 1.0; });
  }
};

// The stretches of the gradient buffer whose elements this rank counts in the norm, neighbouring parameters
// as one, none longer than can be copied to float64 in passing: added up in float32, 400 million squares lose
// 0.4 %.
std::vector<at::Tensor> counted_gradients(const ShardedParameters& parameters) {
  constexpr std::int64_t kLongestStretch = std::int64_t{1} << 20;
  std::vector<at::Tensor> stretches;
  std::int64_t begin = 0, end = 0;
  const auto flush = [&] {
    for (; begin < end; begin = std::min(begin + kLongestStretch, end))
      stretches.push_back(parameters.gradients().slice(0, begin, std::min(begin + kLongestStretch, end)));
  };
  for (const auto& e : parameters.entries()) {
    if (!e.row->counts_in_norm) continue;
    if (e.offset != end) flush(), begin = e.offset;
    end = e.offset + e.numel;
  }
  flush();
  return stretches;
}

}  // namespace

Optimizer make_adamw(const ShardedParameters& parameters, const TrainSpec& train,
                     std::shared_ptr<Collectives> collectives, std::shared_ptr<Group> model) {
  auto state = std::make_shared<AdamWState>();
  Optimizer optimizer;
  const ShardedParameters* p = &parameters;
  optimizer.parameters = p;
  optimizer.steps = std::make_shared<std::int64_t>(0);
  optimizer.zero_gradients = [p] {
    at::Tensor gradients = p->gradients();
    gradients.zero_();
  };
  optimizer.gradient_norm = [p, counted = counted_gradients(parameters), collectives, model] {
    at::Tensor squares = at::zeros({}, p->gradients().options().dtype(at::kDouble));
    for (const at::Tensor& stretch : counted) {
      const at::Tensor wide = stretch.to(at::kDouble);
      squares.add_(at::dot(wide, wide));
    }
    return collectives->all_reduce(*model, squares, "gradient_norm").sqrt();
  };
  optimizer.clip_scale = [limit = train.max_grad_norm](double norm) {
    return std::min(1.0, limit / (norm + 1e-6));
  };
  optimizer.step = [p, state, train, steps = optimizer.steps](double scale) {
    const at::NoGradGuard guard;
    state->make(*p, train);
    const double step = static_cast<double>(++*steps);
    const at::Tensor gradient = p->gradients() * scale;
    at::Tensor values = p->values();
    values.mul_(state->keep);
    state->first.lerp_(gradient, 1 - train.beta1);
    state->second.mul_(train.beta2).addcmul_(gradient, gradient, 1 - train.beta2);
    const double first_correction = 1 - std::pow(train.beta1, step);
    const double second_correction = std::sqrt(1 - std::pow(train.beta2, step));
    const at::Tensor denominator = state->second.sqrt().div_(second_correction).add_(train.eps);
    values.addcdiv_(state->first, denominator, -train.lr / first_correction);
  };
  return optimizer;
}

}  // namespace meshparity::impl

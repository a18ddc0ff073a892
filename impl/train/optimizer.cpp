#include "impl/train/optimizer.h"

#include <algorithm>
#include <cmath>

namespace meshparity::impl {
namespace {

// One value per element of the flat buffer, constant over each parameter.
template <class Value>
at::Tensor per_element(const ShardedParameters& parameters, Value&& value) {
  at::Tensor out = at::empty_like(parameters.values());
  for (const auto& e : parameters.entries()) out.slice(0, e.offset, e.offset + e.numel).fill_(value(*e.row));
  return out;
}

struct AdamWState {
  at::Tensor first, second;  // moments
  at::Tensor keep;           // 1 - lr * decay per element
  at::Tensor counted;        // 1 where this rank's element enters the norm
};

}  // namespace

Optimizer make_adamw(const ShardedParameters& parameters, const TrainSpec& train,
                     std::shared_ptr<Collectives> collectives, std::shared_ptr<Group> model) {
  auto state = std::make_shared<AdamWState>();
  state->first = at::zeros_like(parameters.values());
  state->second = at::zeros_like(parameters.values());
  state->keep = per_element(
      parameters, [&](const PlanRow& row) { return row.decays ? 1 - train.lr * train.weight_decay : 1.0; });
  state->counted = per_element(parameters, [](const PlanRow& row) { return row.counts_in_norm ? 1.0 : 0.0; });

  Optimizer optimizer;
  const ShardedParameters* p = &parameters;
  optimizer.parameters = p;
  optimizer.steps = std::make_shared<std::int64_t>(0);
  optimizer.zero_gradients = [p] {
    at::Tensor gradients = p->gradients();
    gradients.zero_();
  };
  optimizer.gradient_norm = [p, state, collectives, model] {
    const at::Tensor gradients = p->gradients();
    const at::Tensor squares = at::dot(gradients * state->counted, gradients).to(at::kDouble);
    return collectives->all_reduce(*model, squares, "gradient_norm").sqrt();
  };
  optimizer.clip_scale = [limit = train.max_grad_norm](double norm) {
    return std::min(1.0, limit / (norm + 1e-6));
  };
  optimizer.step = [p, state, train, steps = optimizer.steps](double scale) {
    const at::NoGradGuard guard;
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

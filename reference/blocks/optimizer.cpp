#include "reference/blocks/optimizer.h"

#include <cmath>
#include <vector>

namespace meshparity::reference {

at::Tensor global_norm(const std::map<std::string, at::Tensor>& gradients) {
  std::vector<at::Tensor> norms;
  for (const auto& [name, gradient] : gradients) norms.push_back(gradient.to(at::kDouble).norm());
  return at::stack(norms).norm();
}

at::Tensor clip_scale(const at::Tensor& norm, double max_norm) {
  return (max_norm / (norm + 1e-6)).clamp_max(1.0);
}

std::map<std::string, at::Tensor> AdamW::step(const std::map<std::string, at::Tensor>& weights,
                                              const std::map<std::string, at::Tensor>& gradients) {
  ++steps_;
  const double mean_correction = 1 - std::pow(train_.beta1, steps_);
  const double square_correction = 1 - std::pow(train_.beta2, steps_);
  std::map<std::string, at::Tensor> updated;
  for (const auto& [name, weight] : weights) {
    const at::Tensor& gradient = gradients.at(name);
    if (steps_ == 1) mean_[name] = square_[name] = at::zeros_like(weight);
    mean_[name] = train_.beta1 * mean_[name] + (1 - train_.beta1) * gradient;
    square_[name] = train_.beta2 * square_[name] + (1 - train_.beta2) * gradient.square();
    const double decay = weight.dim() >= 2 ? train_.weight_decay : 0.0;
    const at::Tensor denominator = (square_[name] / square_correction).sqrt() + train_.eps;
    updated[name] =
        weight * (1 - train_.lr * decay) - train_.lr * (mean_[name] / mean_correction) / denominator;
  }
  return updated;
}

}  // namespace meshparity::reference

// For tests: compares the gradients a function's backward gives with central differences in float64.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <functional>
#include <vector>

namespace meshparity::impl {

// Largest |g . d - difference quotient along d| over all inputs and three unit directions d each (which mix
// every element, so that one wrong element shows), relative to the largest gradient norm |g| of an input. The
// scalar differentiated is the sum of all outputs weighted by fixed numbers, so no output's gradient is
// special.
inline double gradient_error(const std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>& f,
                             std::vector<at::Tensor> inputs, double h = 1e-5) {
  std::vector<at::Tensor> weights;
  const auto scalar = [&](const std::vector<at::Tensor>& outputs) {
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (weights.size() <= i)
        weights.push_back(
            at::sin(at::arange(outputs[i].numel(), at::kDouble).mul_(1.7) + 0.3).view(outputs[i].sizes()));
      sum = sum + (outputs[i] * weights[i]).sum();
    }
    return sum;
  };
  for (auto& x : inputs) x = x.detach().clone().requires_grad_(true);
  torch::autograd::backward({scalar(f(inputs))}, {});
  const at::NoGradGuard guard;
  double worst = 0, largest = 1e-6;
  for (auto& x : inputs) {
    if (x.numel() == 0) continue;
    const at::Tensor gradient = x.grad(), kept = x;
    largest = std::max(largest, gradient.norm().item<double>());
    for (int k = 1; k <= 3; ++k) {
      at::Tensor direction =
          at::cos(at::arange(x.numel(), at::kDouble).mul_(0.9 + 1.3 * k).add_(k)).view(x.sizes());
      direction.div_(direction.norm());
      x = kept + direction * h;
      const double above = scalar(f(inputs)).item<double>();
      x = kept - direction * h;
      const double below = scalar(f(inputs)).item<double>();
      x = kept;
      worst =
          std::max(worst, std::abs((gradient * direction).sum().item<double>() - (above - below) / (2 * h)));
    }
  }
  return worst / largest;
}

}  // namespace meshparity::impl

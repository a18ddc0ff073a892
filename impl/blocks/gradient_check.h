// For tests: compares the gradients a function's backward gives with central differences in float64.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <functional>
#include <vector>

namespace meshparity::impl {

// Largest |backward - difference| over all elements of all inputs, relative to the largest difference
// quotient. The scalar differentiated is the sum of all outputs weighted by fixed random numbers, so no
// output's gradient is special.
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
    const at::Tensor got = x.grad().contiguous();
    double* data = x.data_ptr<double>();
    for (std::int64_t i = 0; i < x.numel(); ++i) {
      const double kept = data[i];
      data[i] = kept + h;
      const double above = scalar(f(inputs)).item<double>();
      data[i] = kept - h;
      const double below = scalar(f(inputs)).item<double>();
      data[i] = kept;
      const double want = (above - below) / (2 * h);
      worst = std::max(worst, std::abs(got.const_data_ptr<double>()[i] - want));
      largest = std::max(largest, std::abs(want));
    }
  }
  return worst / largest;
}

}  // namespace meshparity::impl

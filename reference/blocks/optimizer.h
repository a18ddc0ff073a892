// Clipping and AdamW, on whole tensors. Another optimizer would be another class with the same `step`.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>

#include "harness/types/batch.h"

namespace meshparity::reference {

// L2 norm over all elements of all gradients, [], summed and returned in float64 whatever their dtype.
at::Tensor global_norm(const std::map<std::string, at::Tensor>& gradients);

// What every gradient is multiplied by so that their norm is at most `max_norm`: min(1, max_norm / (norm +
// 1e-6)), [].
at::Tensor clip_scale(const at::Tensor& norm, double max_norm);

// torch.optim.AdamW: decoupled decay (tensors with two or more dimensions only), bias-corrected moments.
class AdamW {
 public:
  explicit AdamW(const TrainSpec& train) : train_(train) {}

  // The weights after one more step. `gradients` has one (clipped) gradient per weight.
  std::map<std::string, at::Tensor> step(const std::map<std::string, at::Tensor>& weights,
                                         const std::map<std::string, at::Tensor>& gradients);

 private:
  TrainSpec train_;
  int steps_ = 0;
  std::map<std::string, at::Tensor> mean_, square_;  // moments of the gradients
};

}  // namespace meshparity::reference

// Proves AdamW and clipping on steps worked out by hand.
#include "reference/blocks/optimizer.h"

#include <catch2/catch.hpp>
#include <cmath>

namespace meshparity::reference::optimizer_test {
namespace {

using Tensors = std::map<std::string, at::Tensor>;

TrainSpec spec() {
  TrainSpec train;
  train.lr = 0.5;
  train.beta1 = 0.5;
  train.beta2 = 0.75;
  train.eps = 1.0;
  train.weight_decay = 0.25;
  return train;
}

double first(const at::Tensor& t) {
  return t.flatten()[0].item<double>();
}

}  // namespace

TEST_CASE("AdamW: first and second step, decay for matrices only") {
  AdamW optimizer(spec());
  const Tensors weights = {{"matrix", at::full({1, 1}, 8.0, at::kDouble)},
                           {"vector", at::full({1}, 8.0, at::kDouble)}};
  const Tensors gradients = {{"matrix", at::full({1, 1}, 3.0, at::kDouble)},
                             {"vector", at::full({1}, 3.0, at::kDouble)}};

  // Step 1: corrected moments are g and g^2, so the step is lr g / (|g| + eps) = 0.375; decay takes 8 lr 0.25
  // = 1.
  const Tensors one = optimizer.step(weights, gradients);
  CHECK(first(one.at("vector")) == 7.625);
  CHECK(first(one.at("matrix")) == 6.625);

  // Step 2 with g = 0: m = 0.75, v = 1.6875, corrected by 3/4 and 7/16.
  const Tensors zero = {{"matrix", at::zeros({1, 1}, at::kDouble)}, {"vector", at::zeros({1}, at::kDouble)}};
  const Tensors two = optimizer.step(one, zero);
  CHECK(first(two.at("vector")) ==
        Approx(7.625 - 0.5 * 1.0 / (std::sqrt(1.6875 / 0.4375) + 1)).epsilon(1e-15));
}

TEST_CASE("clipping scales by the true global norm, and only down") {
  const Tensors gradients = {{"a", at::tensor({3.0}, at::kDouble)},
                             {"b", at::tensor({0.0, 4.0}, at::kDouble)}};

  const at::Tensor norm = global_norm(gradients);
  CHECK(norm.item<double>() == 5);
  CHECK(norm.dim() == 0);
  CHECK(clip_scale(norm, 1.0).item<double>() == 1.0 / (5 + 1e-6));
  CHECK(clip_scale(norm, 6.0).item<double>() == 1.0);
  CHECK(clip_scale(at::zeros({}, at::kDouble), 1.0).item<double>() == 1.0);
}

}  // namespace meshparity::reference::optimizer_test

// The router's terms of a loss around one micro-batch: what its layers add to, and, once all layers have, the
// totals, the shares that every router's backward needs, and the terms' values. Source: qwen35.md 1.6.
#pragma once

#include <memory>

#include "harness/types/loss_sum.h"
#include "impl/blocks/router_loss.h"
#include "impl/train/loss.h"

namespace meshparity::impl {

struct RouterTerms {
  const LossSum& sum;
  const Normaliser& normaliser;
  std::int64_t experts = 0;
  int copies = 1;  // ranks over tp that see the same rows

  // What the routers of one stage add to; null where the loss has no term of theirs. `real` as in RouterLoss.
  std::shared_ptr<RouterLoss> of_micro_batch(std::int64_t number, const at::Tensor& real,
                                             const at::TensorOptions& options) const;
  // Sets the shares from `totals` [2E + 1], the sums over all ranks and layers.
  void complete(RouterLoss& loss, std::int64_t number, const at::Tensor& totals) const;
  // Adds the terms' values of a completed micro-batch to `values`, in the order of sum.reported().
  void add_values(const RouterLoss& loss, std::int64_t number, const at::Tensor& totals,
                  at::Tensor& values) const;
};

}  // namespace meshparity::impl

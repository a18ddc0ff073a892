// AdamW on this rank's shards, with the global gradient norm. The shards lie in flat buffers, so a step is a
// dozen operations. Each part is an entry that a decorator may wrap. Source: torch.optim.AdamW (decoupled
// decay), torch clip_grad_norm_.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <memory>

#include "harness/types/batch.h"
#include "impl/comm/comm.h"
#include "impl/parallel/fully_sharded.h"

namespace meshparity::impl {

struct Optimizer {
  std::function<void()> zero_gradients;
  // L2 norm over every element of the model once: shards over tp and fsdp add up, replicas count on one rank.
  // float64 [].
  std::function<at::Tensor()> gradient_norm;
  // min(1, max_grad_norm / (norm + 1e-6)), the same number on all ranks.
  std::function<double(double norm)> clip_scale;
  // One AdamW step with the gradients times `scale`. Decay on parameters whose full tensor has two or more
  // dimensions.
  std::function<void(double scale)> step;
  // What the entries work on, for decorators: the shards with their gradients, and the number of steps taken,
  // from which the bias corrections follow.
  const ShardedParameters* parameters = nullptr;
  std::shared_ptr<std::int64_t> steps;
};

// `model`: the ranks that together hold one copy of the model (fsdp x tp). The optimizer reads and writes the
// buffers of `parameters`, which must outlive it.
Optimizer make_adamw(const ShardedParameters& parameters, const TrainSpec& train,
                     std::shared_ptr<Collectives> collectives, std::shared_ptr<Group> model);

}  // namespace meshparity::impl

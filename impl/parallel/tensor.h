// Tensor parallelism: what a block does at its entrance and exit. Between them every rank holds all tokens
// and its own heads or features; one collective on entering serves every column-parallel product of the
// block, one on leaving sums the row-parallel products. With sequence parallelism the same two points gather
// and scatter the tokens (sequence.h).
#pragma once

#include <memory>
#include <vector>

#include "impl/comm/comm.h"

namespace meshparity::impl {

struct TensorParallel {
  Collectives* collectives = nullptr;
  std::shared_ptr<Group> group;
  bool sequence = false;
  std::vector<std::int64_t>
      sizes;  // with sequence: tokens of the residual stream per tp rank, for this micro-batch

  // Residual order -> all tokens. Without sp the identity, whose backward sums the ranks' input gradients.
  at::Tensor enter(const at::Tensor& x, const Site& site) const;
  // Partial sums over all tokens -> summed, in residual order.
  at::Tensor leave(const at::Tensor& partial, const Site& site) const;
};

}  // namespace meshparity::impl

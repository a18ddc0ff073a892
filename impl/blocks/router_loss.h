// The router's terms of the loss, on one rank: aux = E * sum_e f_e P_e and the mean of logsumexp^2 over all
// (layer, token) rows of a micro-batch. Both are built from sums over rows, so a rank adds up its own tokens,
// layer by layer; the sums travel on with the activations, are completed where the last layer is, and f comes
// back with the gradients before any router's backward needs it. Source: qwen35.md 1.6.
// Shapes: T tokens, E experts, k experts per token.
#pragma once

#include <cstdint>
#include <memory>
#include <set>

#include "impl/blocks/experts.h"
#include "impl/comm/comm.h"

namespace meshparity::impl {

// Of one micro-batch on one pipeline stage.
struct RouterLoss {
  at::Tensor real;    // [T] 1 where a token of this rank is no padding, which never counts; undefined: all
  at::Tensor sums;    // [2E + 1]: rows that chose each expert; sums of softmax; sum of logsumexp^2
  at::Tensor shares;  // [E] f_e over all ranks and layers; known before the first backward
  // What aux = E f.P and logsumexp^2 of one row count in the gradient.
  double aux_weight = 0, z_weight = 0;
  std::set<Site> counted;  // a layer that runs again in backward is not counted again
};

// The routing weights, unchanged, with a backward that also sends the terms' gradients into the scores
// [T, E]; on the way this rank's rows are added to the sums. `real` [T]: as in RouterLoss, of these tokens.
// The terms have a gradient only where the weights that are returned are used.
at::Tensor with_router_loss(const std::shared_ptr<RouterLoss>& loss, const at::Tensor& scores,
                            const Routing& routing, const at::Tensor& real, const Site& site);

}  // namespace meshparity::impl

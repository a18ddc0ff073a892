// Activation recomputation: a piece of the model keeps its input alone and runs a second time in backward.
#pragma once

#include <ATen/ATen.h>

#include <functional>

namespace meshparity::impl {

// first(x), as a node of the graph that holds x; backward runs again(x) with a graph, and through it. Both
// must be the same function and reach their parameters as leaves, whose gradients accumulate. Collectives run
// in both, so all ranks of a group must recompute alike. Without gradients: first(x).
at::Tensor recomputed(const at::Tensor& x, const std::function<at::Tensor(const at::Tensor&)>& first,
                      std::function<at::Tensor(const at::Tensor&)> again);

}  // namespace meshparity::impl

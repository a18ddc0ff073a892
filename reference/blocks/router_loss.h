// The two terms that keep a mixture's router in bounds, each a mean over the decisions of all its routers.
// Legend: L layers, T tokens of the micro-batch, E experts, k experts per token.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace meshparity::reference {

// E * sum_e f_e P_e over the L*T rows of logits [T, E] of every layer: f_e the share of rows that chose e
// among their k (so the shares add up to k; no gradient), P_e the mean of softmax(row)_e. One pool of rows:
// the mean of the layers' values is another number. Source: qwen35.md 1.6.
at::Tensor load_balancing_loss(const std::vector<at::Tensor>& layers, std::int64_t experts_per_token);

// mean over the L*T rows of logsumexp(row)^2. Source: design.md 5.
at::Tensor router_z_loss(const std::vector<at::Tensor>& layers);

}  // namespace meshparity::reference

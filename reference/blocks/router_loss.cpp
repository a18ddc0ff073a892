#include "reference/blocks/router_loss.h"

#include <tuple>

namespace meshparity::reference {

at::Tensor load_balancing_loss(const std::vector<at::Tensor>& layers, std::int64_t experts_per_token) {
  const at::Tensor probabilities = at::softmax(at::cat(layers), -1);  // [L*T, E]
  const at::Tensor chosen = std::get<1>(at::topk(probabilities, experts_per_token, -1));
  const at::Tensor is_chosen = at::zeros_like(probabilities.detach()).scatter_(1, chosen, 1.0);
  const double experts = static_cast<double>(probabilities.size(1));
  return experts * (is_chosen.mean(0) * probabilities.mean(0)).sum();
}

at::Tensor router_z_loss(const std::vector<at::Tensor>& layers) {
  return at::logsumexp(at::cat(layers), {-1}).square().mean();
}

}  // namespace meshparity::reference

#include "reference/blocks/moe.h"

#include <tuple>
#include <vector>

#include "reference/blocks/feed_forward.h"

namespace meshparity::reference {

Routing route(const at::Tensor& x, const at::Tensor& router, std::int64_t experts_per_token) {
  const auto [top, experts] = at::topk(at::softmax(at::linear(x, router), -1), experts_per_token, -1);
  return {experts, top / top.sum(-1, /*keepdim=*/true)};
}

Routing route_to(const at::Tensor& x, const at::Tensor& router, const at::Tensor& experts) {
  const at::Tensor chosen = at::softmax(at::linear(x, router), -1).gather(-1, experts);
  return {experts, chosen / chosen.sum(-1, /*keepdim=*/true)};
}

at::Tensor moe(const at::Tensor& x, const MoeWeights& weights, std::int64_t experts_per_token) {
  return moe(x, weights, route(x, weights.router, experts_per_token));
}

at::Tensor moe(const at::Tensor& x, const MoeWeights& weights, const Routing& routing) {
  // unbind, not select in the loop: select's backward would fill a whole [E, ..] tensor for every expert.
  const std::vector<at::Tensor> gate_up = weights.experts_gate_up.unbind(0);
  const std::vector<at::Tensor> down = weights.experts_down.unbind(0);

  at::Tensor y = at::zeros_like(x);
  for (std::size_t e = 0; e < down.size(); ++e) {
    const at::Tensor place =
        (routing.experts == static_cast<std::int64_t>(e)).nonzero();  // [n, 2]: token, slot
    if (place.size(0) == 0) continue;
    const at::Tensor token = place.select(1, 0), slot = place.select(1, 1);
    const std::vector<at::Tensor> gate_and_up = gate_up[e].chunk(2, 0);
    const at::Tensor out = swiglu(x.index_select(0, token), gate_and_up[0], gate_and_up[1], down[e]);
    y = y.index_add(0, token, out * routing.weights.index({token, slot}).unsqueeze(1));
  }
  const at::Tensor shared = swiglu(x, weights.shared_gate, weights.shared_up, weights.shared_down);
  return y + at::sigmoid(at::linear(x, weights.shared_expert_gate)) * shared;
}

}  // namespace meshparity::reference

#include "impl/blocks/router_loss.h"

namespace meshparity::impl {

at::Tensor with_router_loss(const std::shared_ptr<RouterLoss>& loss, const at::Tensor& scores,
                            const Routing& routing, const at::Tensor& real, const Site& site) {
  at::Tensor p, lse, weights;
  {
    const BelowAutograd guard;
    const std::int64_t experts = scores.size(1);
    p = at::_softmax(scores, 1, /*half_to_float=*/false);
    lse = at::logsumexp(scores, {1});
    weights = shared_view(routing.weights);
    if (loss->counted.insert(site).second) {
      const at::Tensor row = real.defined() ? real : at::ones_like(lse);
      const at::Tensor chosen = row.unsqueeze(1).expand_as(routing.experts).reshape({-1});
      loss->sums.slice(0, 0, experts).index_add_(0, routing.experts.reshape({-1}), chosen);
      loss->sums.slice(0, experts, 2 * experts).add_((p * row.unsqueeze(1)).sum(0));
      loss->sums.slice(0, 2 * experts).add_((lse * lse * row).sum());
    }
  }
  return attach("router_loss", {scores, routing.weights}, {weights},
                [loss, p, lse, real](const Tensors& grads) {
                  const double experts = static_cast<double>(p.size(1));
                  at::Tensor dscores = (p * lse.unsqueeze(1)).mul_(2 * loss->z_weight);
                  if (loss->aux_weight != 0) {
                    // d sum_e f_e p_e through the softmax; f has no gradient.
                    const at::Tensor along = at::mv(p, loss->shares).unsqueeze(1);
                    dscores.add_(p * (loss->shares - along), experts * loss->aux_weight);
                  }
                  if (real.defined()) dscores.mul_(real.unsqueeze(1));
                  return Tensors{dscores, grads[0]};
                })[0];
}

}  // namespace meshparity::impl

// What a policy rounds in rollout: the caches, and the mixers that read them.
#include "impl/rollout/edit.h"
#include "scenarios/policies/rounding.h"

namespace meshparity::policies {

using at::Tensor;

void plant_cached_mixers(const PrecisionPolicy& policy, impl::Primitives& p) {
  const Rounding act(policy, Place::activations), cache(policy, Place::kv_cache),
      softmax(policy, Place::softmax), weights(policy, Place::router_weights);
  p.cached_attention = [=, right = p.cached_attention](const Tensor& q, const Tensor& keys,
                                                       const Tensor& values, const Tensor& bias,
                                                       std::int64_t head_dim) {
    if (!softmax.active()) return act(right(q, cache(keys), cache(values), bias, head_dim));
    return act(attend(q, cache(keys), cache(values), bias, head_dim, softmax));
  };
  // The states they hand on are rounded where they are kept.
  const auto outputs = [act](const auto& right) {
    return [act, right](const auto&... arguments) {
      impl::Tensors out = right(arguments...);
      out[0] = act(out[0]);
      return out;
    };
  };
  p.delta_rule_from = outputs(p.delta_rule_from);
  p.delta_step = outputs(p.delta_step);
  p.route_to = [weights, right = p.route_to](const Tensor& logits, const Tensor& experts) {
    impl::Routing routing = right(logits, experts);
    routing.weights = weights(routing.weights);
    return routing;
  };
}

void plant_caches(const PrecisionPolicy& policy, impl::RolloutEdit& edit) {
  const Rounding state(policy, Place::delta_state), tail(policy, Place::conv_state);
  edit.keep_state = [state, right = edit.keep_state](const impl::RolloutPass& pass, const Tensor& before,
                                                     const Tensor& after) {
    return state(right(pass, before, after));
  };
  edit.keep_tail = [tail, right = edit.keep_tail](const impl::RolloutPass& pass, const Tensor& before,
                                                  const Tensor& after) {
    return tail(right(pass, before, after));
  };
}

}  // namespace meshparity::policies

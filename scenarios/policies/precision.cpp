// The policy's places: weights, norms, products, reductions and gradients; mixers and experts stand in
// mixers.cpp.
#include "scenarios/policies/precision.h"

#include <utility>

#include "impl/blocks/dtype_policy.h"
#include "impl/comm/pass_on.h"
#include "impl/parallel/pipeline.h"
#include "impl/train/optimizer.h"
#include "scenarios/policies/rounding.h"

namespace meshparity::policies {
namespace {

using at::Tensor;
using impl::Primitives;
using impl::Tensors;

void plant_norms(const PrecisionPolicy& policy, Primitives& p) {
  const Rounding act(policy, Place::activations), norms(policy, Place::norms);
  const auto zero_centred = [act, norms](const auto& right) {
    return [right, act, norms](const Tensor& x, const Tensor& weight, double eps) {
      const Tensor normed = norms(right(x, at::zeros_like(weight), eps));
      return act(normed * (1 + weight).repeat({x.size(1) / weight.numel()}));
    };
  };
  p.rms_norm = zero_centred(p.rms_norm);
  p.head_norm = zero_centred(p.head_norm);
  const Rounding gated(policy, Place::gated_norm);
  p.gated_rms_norm = [act, gated](const Tensor& x, const Tensor& weight, const Tensor& z, double eps) {
    const std::int64_t width = weight.numel();
    const Tensor groups = x.reshape({x.size(0), x.size(1) / width, width});
    const Tensor normed = gated(groups * (groups.square().mean({-1}, true) + eps).rsqrt());
    return act((normed * weight).reshape(x.sizes()) * at::silu(z));
  };
  round_result(p.l2norm, act);
}

void plant_products(const PrecisionPolicy& policy, Primitives& p) {
  const Rounding act(policy, Place::activations), router(policy, Place::router);
  p.router_linear = [act, router, right = p.router_linear](const Tensor& x, const Tensors& weights) {
    Tensors out = right(x, weights);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = i == 0 ? router(out[i]) : act(out[i]);
    return out;
  };
  round_results(p.linear, act);
  round_results(p.head_linear, Rounding(policy, Place::logits));
  round_result(p.logit_sums, Rounding(policy, Place::logprobs));
  round_result(p.swiglu, act);
  round_result(p.embedding_lookup, act);
  round_result(p.add, Rounding(policy, Place::residual));
}

void plant_vision(const PrecisionPolicy& policy, Primitives& p) {
  const Rounding act(policy, Place::activations);
  round_result(p.layer_norm, act);
  round_result(p.column_bias, act);
  round_result(p.row_bias, act);
  round_result(p.gelu_erf, act);
  round_result(p.gelu_tanh, act);
  round_result(p.resample_positions, act);
  round_result(p.vision_attention, act);
}

// What the ranks add up, and the sum; not the counts and parts of the loss, which have places of their own.
class RoundedSums : public impl::PassOn {
 public:
  RoundedSums(std::shared_ptr<impl::Collectives> inner, Rounding round)
      : PassOn(std::move(inner)), round_(round) {}
  Tensor all_reduce(const impl::Group& group, const Tensor& x, const impl::Site& site) override {
    if (!counts(group, site)) return PassOn::all_reduce(group, x, site);
    return round_(PassOn::all_reduce(group, round_(x), site));
  }
  Tensor reduce_scatter(const impl::Group& group, const Tensor& x, const std::vector<std::int64_t>& sizes,
                        std::int64_t dim, const impl::Site& site) override {
    if (!counts(group, site)) return PassOn::reduce_scatter(group, x, sizes, dim, site);
    return round_(PassOn::reduce_scatter(group, round_(x), sizes, dim, site));
  }

 private:
  static bool counts(const impl::Group& group, const impl::Site& site) {
    return group.size() > 1 && !site.starts_with("loss") && !site.starts_with("lm_head") &&
           !site.starts_with("gradient_norm");
  }
  Rounding round_;
};

// The hook, and after it what was planted before: a fault wraps what a policy rounds, which may be a function
// of its own.
template <class Hook, class First>
void add_hook(Hook& hook, First first) {
  hook = [planted = std::move(hook), first](auto&... arguments) {
    first(arguments...);
    if (planted) planted(arguments...);
  };
}

void plant_weights(const PrecisionPolicy& policy, impl::DtypePolicy& dtypes) {
  const Rounding parameters(policy, Place::parameters), a_log(policy, Place::a_log);
  dtypes.stored = [=, before = dtypes.stored](const std::string& name, const Tensor& value) {
    const bool decay = name.ends_with(".A_log") || name.ends_with(".dt_bias");
    const Tensor stored = before ? before(name, value) : value;
    return decay ? a_log(stored) : parameters(stored);
  };
}

// Gradients lie in one buffer, to which every backward pass adds: rounded there after each.
void plant_accumulation(const PrecisionPolicy& policy, impl::Seams& seams) {
  const Rounding round(policy, Place::accumulation);
  if (!round.active()) return;
  // A rank is a thread, and its optimizer is made before its first pass.
  static thread_local const impl::ShardedParameters* parameters = nullptr;
  add_hook(seams.optimizer, [](impl::Optimizer& optimizer) { parameters = optimizer.parameters; });
  add_hook(seams.pipeline, [round](impl::PipelineRunner& runner) {
    runner.run = [round, right = runner.run](const impl::PipelineAction& action) {
      right(action);
      if (action.forward) return;
      Tensor gradients = parameters->gradients();
      gradients.copy_(round(gradients));
    };
  });
}

}  // namespace

void plant(const PrecisionPolicy& policy, impl::Seams& seams) {
  add_hook(seams.dtypes, [policy](impl::DtypePolicy& dtypes) { plant_weights(policy, dtypes); });
  add_hook(seams.primitives, [policy](Primitives& primitives) {
    plant_norms(policy, primitives);
    plant_products(policy, primitives);
    plant_attention(policy, primitives);
    plant_gated_delta_net(policy, primitives);
    plant_experts(policy, primitives);
    plant_cached_mixers(policy, primitives);
    plant_vision(policy, primitives);
  });
  add_hook(seams.rollout, [policy](impl::RolloutEdit& edit) { plant_caches(policy, edit); });
  if (const Rounding sums(policy, Place::reductions); sums.active())
    seams.collectives = [before = seams.collectives, sums](std::shared_ptr<impl::Collectives> inner) {
      return std::make_shared<RoundedSums>(before ? before(std::move(inner)) : std::move(inner), sums);
    };
  plant_accumulation(policy, seams);
}

}  // namespace meshparity::policies

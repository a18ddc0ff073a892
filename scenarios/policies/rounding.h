// Rounding to the dtype that a policy has at a place, and what primitives are wrapped with.
#pragma once

#include <ATen/ATen.h>

#include <functional>

#include "harness/types/precision.h"
#include "impl/blocks/primitives.h"
#include "impl/rollout/edit.h"

namespace meshparity::policies {

class Rounding {
 public:
  Rounding(const PrecisionPolicy& policy, Place place) : to_(policy.at(place)) {}
  // x, a float64 or float32 tensor, to the nearest numbers of the place's dtype; other tensors and float64
  // pass as they are.
  at::Tensor operator()(const at::Tensor& x) const {
    if (!active() || !x.defined() || !x.is_floating_point()) return x;
    const at::ScalarType type = to_ == DType::bfloat16  ? at::kBFloat16
                                : to_ == DType::float16 ? at::kHalf
                                                        : at::kFloat;
    return x.to(type).to(x.scalar_type());
  }
  bool active() const { return to_ != DType::float64; }

 private:
  DType to_;
};

// out = round(right(arguments...))
template <class... Arguments>
void round_result(std::function<at::Tensor(Arguments...)>& entry, const Rounding& round) {
  entry = [right = entry, round](Arguments... arguments) { return round(right(arguments...)); };
}
template <class... Arguments>
void round_results(std::function<impl::Tensors(Arguments...)>& entry, const Rounding& round) {
  entry = [right = entry, round](Arguments... arguments) {
    impl::Tensors out = right(arguments...);
    for (at::Tensor& t : out) t = round(t);
    return out;
  };
}

// Attention of queries [n, H * d] to keys and values [m, KV * d], whose probabilities are rounded. `bias`
// [n, m] is added to the scores; undefined: none.
at::Tensor attend(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                  const at::Tensor& bias, std::int64_t head_dim, const Rounding& softmax);

// What rollout keeps, and the mixers that read it.
void plant_cached_mixers(const PrecisionPolicy& policy, impl::Primitives& primitives);
void plant_caches(const PrecisionPolicy& policy, impl::RolloutEdit& edit);

// The parts of the model whose rounding needs more than their result: softmax attention, GatedDeltaNet, the
// mixture of experts.
void plant_attention(const PrecisionPolicy& policy, impl::Primitives& primitives);
void plant_gated_delta_net(const PrecisionPolicy& policy, impl::Primitives& primitives);
void plant_experts(const PrecisionPolicy& policy, impl::Primitives& primitives);

}  // namespace meshparity::policies

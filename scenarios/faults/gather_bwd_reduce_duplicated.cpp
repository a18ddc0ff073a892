// The backward of an all-gather before a duplicated computation sums identical gradients: a factor tp per
// such layer.
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {
namespace {

class SumIdenticalGradients : public PassOn {
 public:
  using PassOn::PassOn;
  at::Tensor reduce_scatter(const impl::Group& group, const at::Tensor& x,
                            const std::vector<std::int64_t>& sizes, std::int64_t dim,
                            const impl::Site& site) override {
    const at::Tensor part = inner().reduce_scatter(group, x, sizes, dim, site);
    return glob_match("*.linear_attn:backward", site) ? part * group.size() : part;
  }
};

}  // namespace

Fault gather_bwd_reduce_duplicated() {
  return {"gather-bwd-reduce-duplicated",
          "backward of the gather before GatedDeltaNet sums identical gradients: a factor tp per layer, "
          "compounding downwards",
          "THUDM/slime#1748",
          "grads",
          "model.layers.0.input_layernorm.weight",
          "input gradient multiplied by tp at layers.*.linear_attn",
          {"--model tiny-dense --batch rows --mesh tp2 --sp on",
           "--model tiny-moe --batch packed-odd --mesh tp3 --sp on"},
          [](impl::Seams& seams) { seams.collectives = wrap_collectives<SumIdenticalGradients>(); }};
}

}  // namespace meshparity::faults

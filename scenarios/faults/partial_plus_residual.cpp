// What is whole on every tp rank joins a partial sum before the reduction, and counts once per rank.
#include "impl/blocks/primitives.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {
namespace {

// The residual stream as the last norm in front of a block saw it.
at::Tensor& last_residual() {
  thread_local at::Tensor x;
  return x;
}

class ResidualInPartialSum : public PassOn {
 public:
  using PassOn::PassOn;
  at::Tensor all_reduce(const impl::Group& group, const at::Tensor& x, const impl::Site& site) override {
    const bool leaves_block = glob_match("layers.*", site) && !site.ends_with(":backward");
    if (group.size() == 1 || group.axis() != "tp" || !leaves_block) return PassOn::all_reduce(group, x, site);
    // The block's caller adds it once more.
    const at::Tensor residual = last_residual();
    return PassOn::all_reduce(group, x + residual, site) - residual;
  }
};

}  // namespace

Fault partial_plus_replicated_bias() {
  return {"partial-plus-replicated-bias",
          "the residual is added to every tp rank's partial output before the reduction: it counts tp times",
          "pytorch/torchtitan#2106",
          "logits",
          "logits",
          "GatedDeltaNet of layer 0 computes something else",
          {"--model tiny-dense --batch rows --mesh tp2", "--model tiny-moe --batch packed-odd --mesh tp3"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.rms_norm = [right = p.rms_norm](const at::Tensor& x, const at::Tensor& weight, double eps) {
                last_residual() = x.detach();
                return right(x, weight, eps);
              };
            };
            seams.collectives = wrap_collectives<ResidualInPartialSum>();
          },
          {"--model tiny-dense --batch rows --mesh dp2"}};
}

}  // namespace meshparity::faults

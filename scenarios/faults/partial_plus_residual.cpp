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

// How often the bias of a row-parallel product of the vision tower counts: once per rank that holds a part.
std::int64_t& bias_times() {
  thread_local std::int64_t times = 1;
  return times;
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
  return {
      "partial-plus-replicated-bias",
      "the residual, and in a vision tower the bias, is added to every tp rank's partial output before the "
      "reduction: it counts tp times",
      "pytorch/torchtitan#2106",
      "logits",
      "logits",
      "GatedDeltaNet of layer 0 computes something else|block 0 of the vision tower computes something else",
      {"--model tiny-dense --batch rows --mesh tp2", "--model tiny-moe --batch packed-odd --mesh tp3",
       "--model tiny-vl --batch rows --mesh tp2"},
      [](impl::Seams& seams) {
        seams.plan = [](impl::Plan& plan, const Mesh& mesh) {
          bias_times() = 1;
          for (const auto& row : plan.rows)
            if (glob_match("model.visual.*.attn.proj.weight", row.name) && row.tp_dim == 1)
              bias_times() = mesh.tp;
        };
        seams.primitives = [](impl::Primitives& p) {
          p.row_bias = [right = p.row_bias](const at::Tensor& x, const at::Tensor& bias) {
            at::Tensor y = x;
            for (std::int64_t i = 0; i < bias_times(); ++i) y = right(y, bias);
            return y;
          };
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

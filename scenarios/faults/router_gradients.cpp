// Gradients of the router and of the shared expert's gate: replicated weights whose gradients are partial
// sums over tp.
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {
namespace {

class SkipExpertInputReduction : public PassOn {
 public:
  using PassOn::PassOn;
  at::Tensor all_reduce(const impl::Group& group, const at::Tensor& x, const impl::Site& site) override {
    const at::Tensor sum = inner().all_reduce(group, x, site);
    return glob_match("*.mlp:backward", site) ? x : sum;
  }
};

auto drop_tp_sum(const char* glob) {
  return edit_rows(glob, [](impl::PlanRow& row) { row.tp_sum = impl::TpSum::none; });
}

}  // namespace

Fault router_grad_tp_missing() {
  return {
      "router-grad-tp-missing",
      "router weight replicated over tp, its gradient is a partial sum over the rank's expert columns and "
      "not summed",
      "pytorch/torchtitan#2387",
      "grads",
      "model.layers.*.mlp.gate.weight",
      "gradient all-reduce over tp missing",
      {"--model tiny-moe --batch rows --mesh tp2", "--model tiny-moe --batch packed-odd --mesh fsdp2.tp3"},
      [](impl::Seams& seams) { seams.plan = drop_tp_sum("*.mlp.gate.weight"); }};
}

Fault moe_tp_noep_grad_placement() {
  return {"moe-tp-noep-grad-placement",
          "partial input gradients of router and experts treated as replicated where there is no expert "
          "parallelism",
          "pytorch/torchtitan#4054",
          "grads",
          "model.layers.*.mlp.gate.weight",
          "gradient all-reduce over tp missing",
          {"--model tiny-moe --batch rows --mesh tp2", "--model tiny-moe --batch single --mesh tp6"},
          [](impl::Seams& seams) {
            seams.plan = drop_tp_sum("*.mlp.*gate.weight");
            seams.collectives = wrap_collectives<SkipExpertInputReduction>();
          }};
}

}  // namespace meshparity::faults

// The per-head output norm of GatedDeltaNet is replicated over tp and sees other heads on every rank; its
// gradient is summed only when sp is on.
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault gdn_outnorm_grad_tp_missing() {
  return {
      "gdn-outnorm-grad-tp-missing",
      "gradient of linear_attn.norm is a partial sum over the rank's heads and not summed over tp without sp",
      "NVIDIA/Megatron-LM#7452",
      "grads",
      "model.layers.*.linear_attn.norm.weight",
      "gradient all-reduce over tp missing",
      {"--model tiny-dense --batch rows --mesh tp2", "--model tiny-moe --batch packed-odd --mesh tp6"},
      [](impl::Seams& seams) {
        seams.plan =
            edit_rows("*linear_attn.norm.weight", [](impl::PlanRow& row) { row.tp_sum = impl::TpSum::none; });
      }};
}

}  // namespace meshparity::faults

// Norm weights are replicated over tp but see only their part of the tokens under sp; their gradients are
// never summed.
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault sp_norm_grad_no_allreduce() {
  return {"sp-norm-grad-no-allreduce",
          "norm weights see only their sequence shard under sp and their gradients are not summed over tp",
          "NVIDIA/Megatron-LM#1446",
          "grads",
          "model.layers.*.input_layernorm.weight",
          "gradient all-reduce over tp missing",
          {"--model tiny-dense --batch rows --mesh tp2 --sp on",
           "--model tiny-moe --batch packed-odd --mesh tp3 --sp on"},
          [](impl::Seams& seams) {
            seams.plan =
                edit_rows("*layernorm.weight", [](impl::PlanRow& row) { row.tp_sum = impl::TpSum::none; });
          }};
}

}  // namespace meshparity::faults

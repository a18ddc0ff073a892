// More tp ranks than key-value heads: each replica of a head keeps its own query heads' part of the gradient.
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault kv_replica_grad_unsummed() {
  return {"kv-replica-grad-unsummed",
          "key-value heads replicated over tp keep only their own query heads' gradient",
          "bigcode-project/Megatron-LM#37",
          "grads",
          "model.layers.*.self_attn.?_proj.weight",
          "gradient all-reduce over tp missing",
          {"--model tiny-dense --batch rows --mesh tp4", "--model tiny-moe --batch single --mesh tp2"},
          [](impl::Seams& seams) {
            seams.plan = edit_rows("*self_attn.?_proj.weight", [](impl::PlanRow& row) {
              if (row.tp_sum == impl::TpSum::replicas) row.tp_sum = impl::TpSum::none;
            });
          }};
}

}  // namespace meshparity::faults

// Weights that tp replicates are initialised from a generator seeded per rank: identical gradients never
// remove the difference.
#include "impl/blocks/dtype_policy.h"
#include "scenarios/faults/decorators.h"
#include "scenarios/faults/this_rank.h"

namespace meshparity::faults {

Fault replicated_init_differs() {
  return {"replicated-init-differs",
          "a weight replicated over tp is initialised with another seed on every rank",
          "NVIDIA-NeMo/Megatron-Bridge#5396",
          "logits",
          "logits",
          "replicas start from different weights",
          {"--model tiny-moe --batch rows --mesh tp2", "--model tiny-moe --batch single --mesh fsdp2.tp3"},
          [](impl::Seams& seams) {
            seams.plan = note_rank;
            seams.dtypes = [](impl::DtypePolicy& policy) {
              policy.stored = [](const std::string& name, const at::Tensor& value) {
                return glob_match("*.shared_expert_gate.weight", name) ? value * (1 + 0.5 * this_rank().at.tp)
                                                                       : value;
              };
            };
          }};
}

}  // namespace meshparity::faults

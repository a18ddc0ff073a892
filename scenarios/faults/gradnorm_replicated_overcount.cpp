// The sum of squares over tp counts parameters that are replicated over tp once per rank.
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault gradnorm_replicated_overcount() {
  return {"gradnorm-replicated-overcount",
          "squared norms summed over all ranks count parameters replicated over tp once per rank",
          "NVIDIA-NeMo/RL#3788",
          "grad_norm",
          "grad_norm",
          "gradient norm counts parameters replicated over tp *",
          {"--model tiny-dense --batch rows --mesh tp2",
           "--model tiny-moe --batch packed-odd --mesh fsdp2.tp3 --sp on"},
          [](impl::Seams& seams) {
            seams.plan = edit_rows("*", [](impl::PlanRow& row) {
              if (row.tp_dim < 0) row.counts_in_norm = true;
            });
          }};
}

}  // namespace meshparity::faults

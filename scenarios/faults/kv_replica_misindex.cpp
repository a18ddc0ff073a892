// More tp ranks than key-value heads: rank r takes head r mod n instead of floor(r * n / tp).
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault kv_replica_misindex() {
  return {"ulysses-kv-replica-misindex",
          "replicated key-value head chosen as rank mod heads instead of floor(rank * heads / tp)",
          "PrimeIntellect-ai/prime-rl#3042",
          "grads",
          "model.layers.*.self_attn.?_proj.weight",
          "weight sharded in the wrong order*",
          {"--model tiny-dense --batch rows --mesh tp4", "--model tiny-dense --batch single --mesh dp2.tp4"},
          [](impl::Seams& seams) {
            seams.plan = edit_rows("*self_attn.?_proj.weight", [](impl::PlanRow& row) {
              row.replica_unit = [](std::int64_t units, std::int64_t, std::int64_t index) {
                return index % units;
              };
            });
          }};
}

}  // namespace meshparity::faults

// More Ulysses or tp ranks than key-value heads: rank r takes head r mod n instead of floor(r * n / ranks).
#include "impl/blocks/primitives.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault kv_replica_misindex() {
  return {"ulysses-kv-replica-misindex",
          "replicated key-value head chosen as rank mod heads instead of floor(rank * heads / ranks)",
          "PrimeIntellect-ai/prime-rl#3042",
          "grads",
          "model.layers.*.self_attn.?_proj.weight",
          "weight sharded in the wrong order*|*attention of layer 3*",
          {"--model tiny-dense --batch rows --mesh uly4", "--model tiny-dense --batch rows --mesh tp4",
           "--model tiny-dense --batch single --mesh dp2.tp4"},
          [](impl::Seams& seams) {
            seams.plan = edit_rows("*self_attn.?_proj.weight", [](impl::PlanRow& row) {
              row.replica_unit = [](std::int64_t units, std::int64_t, std::int64_t index) {
                return index % units;
              };
            });
            seams.primitives = [](impl::Primitives& p) {
              p.head_columns = [right = p.head_columns](std::int64_t heads, std::int64_t width,
                                                        std::int64_t offset, int ranks, int index) {
                if (heads >= ranks) return right(heads, width, offset, ranks, index);
                return right(heads, width, offset, static_cast<int>(heads), index % static_cast<int>(heads));
              };
            };
          },
          // As many heads as ranks: both rules agree.
          {"--model tiny-dense --batch rows --mesh uly2", "--model tiny-dense --batch rows --mesh tp2"}};
}

}  // namespace meshparity::faults

// The fused [q|k|v] rows of in_proj_qkv cut evenly over tp instead of section by section: every rank projects
// a mixture.
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault gdn_inproj_flat_tp_split() {
  return {"gdn-inproj-flat-tp-split",
          "fused q|k|v rows of GatedDeltaNet's in_proj cut evenly over tp instead of section by section",
          "NVIDIA/Megatron-LM#1989",
          "grads",
          "model.layers.*.linear_attn.in_proj_qkv.weight",
          "weight sharded in the wrong order*",
          {"--model tiny-dense --batch rows --mesh tp2", "--model tiny-moe --batch packed-odd --mesh tp3"},
          [](impl::Seams& seams) {
            seams.plan = edit_rows("*linear_attn.in_proj_qkv.weight", [](impl::PlanRow& row) {
              row.tp_blocks = {{row.shape[0], 1, false}};
            });
          }};
}

}  // namespace meshparity::faults

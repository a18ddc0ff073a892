// The depthwise conv weight cut contiguously over its q|k|v channels while activations are cut per section.
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault conv1d_weight_not_block_sharded() {
  return {"conv1d-weight-not-block-sharded",
          "conv1d weight cut contiguously over tp while its channels are cut per q|k|v section",
          "NVIDIA-NeMo/Megatron-Bridge#1694",
          "grads",
          "model.layers.*.linear_attn.conv1d.weight",
          "weight sharded in the wrong order*",
          {"--model tiny-dense --batch rows --mesh tp2", "--model tiny-moe --batch single --mesh tp3"},
          [](impl::Seams& seams) {
            seams.plan = edit_rows("*linear_attn.conv1d.weight", [](impl::PlanRow& row) {
              row.tp_blocks = {{row.shape[0], 1, false}};
            });
          }};
}

}  // namespace meshparity::faults

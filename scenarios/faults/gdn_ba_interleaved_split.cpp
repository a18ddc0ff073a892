// The gate rows b and a lie interleaved per key group but are split at the midpoint: the beta of one head
// becomes the decay input of another.
#include <atomic>

#include "impl/blocks/primitives.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault gdn_ba_interleaved_split() {
  return {"gdn-ba-interleaved-split",
          "b and a rows stored interleaved per key group but split at the midpoint",
          "vllm-project/vllm#36242",
          "grads",
          "model.layers.*.linear_attn.in_proj_?.weight",
          "GatedDeltaNet of layer 0 computes something else",
          {"--model tiny-dense --batch rows --mesh tp2", "--model tiny-moe --batch packed-odd --mesh fsdp2"},
          [](impl::Seams& seams) {
            // Value heads per key head; all ranks store the same number.
            auto ratio = std::make_shared<std::atomic<std::int64_t>>(1);
            seams.plan = [ratio](impl::Plan& plan, const Mesh&) {
              for (const auto& row : plan.rows)
                if (row.tp_blocks.size() == 3) *ratio = row.tp_blocks[2].count / row.tp_blocks[0].count;
            };
            seams.primitives = [ratio](impl::Primitives& p) {
              p.delta_gates = [right = p.delta_gates, ratio](const at::Tensor& a, const at::Tensor& b,
                                                             const at::Tensor& a_log,
                                                             const at::Tensor& dt_bias) {
                const std::int64_t tokens = a.size(0), heads = a.size(1), r = ratio->load();
                const at::Tensor stored =
                    at::cat({b.view({tokens, heads / r, r}), a.view({tokens, heads / r, r})}, 2)
                        .view({tokens, 2 * heads});
                return right(stored.slice(1, heads, 2 * heads).contiguous(),
                             stored.slice(1, 0, heads).contiguous(), a_log, dt_bias);
              };
            };
          }};
}

}  // namespace meshparity::faults

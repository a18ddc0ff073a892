// Attention that is wrong on one device already: gate rows read as two halves, the rotation applied to the
// wrong end of a head.
#include "impl/blocks/primitives.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault attn_gate_rows_tail_reshard() {
  return {"attn-gate-rows-tail-reshard",
          "[q|gate] rows read as all q then all gate instead of pairs per head",
          "NVIDIA/Megatron-LM#4841",
          "grads",
          "model.layers.*.self_attn.q_proj.weight",
          "attention of layer * computes something else",
          {"--model tiny-dense --batch rows --mesh tp2", "--model tiny-moe --batch single --mesh fsdp2"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.split_query_gate = [](const at::Tensor& query_gate, std::int64_t) {
                const auto halves = query_gate.chunk(2, -1);
                return impl::Tensors{halves[0].contiguous(), halves[1].contiguous()};
              };
            };
          }};
}

Fault partial_rope_tail() {
  return {"partial-rope-full-dim",
          "the rotation is applied to the tail of the head instead of its first rotary_dim entries",
          "constructed",
          "grads",
          "model.layers.*.self_attn.k_norm.weight",
          "attention of layer * computes something else",
          {"--model tiny-dense --batch rows --mesh dp2", "--model tiny-moe --batch packed-odd --mesh tp3"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.rope = [right = p.rope](const at::Tensor& x, const impl::PackedTokens& tokens) {
                return right(x.flip(-1).contiguous(), tokens).flip(-1).contiguous();
              };
            };
          }};
}

}  // namespace meshparity::faults

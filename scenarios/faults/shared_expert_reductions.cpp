// The shared expert between its own reduction and the mixture's: its gate summed once more, its output left a
// partial sum.
#include "impl/blocks/primitives.h"
#include "scenarios/faults/decorators.h"
#include "scenarios/faults/this_rank.h"

namespace meshparity::faults {
namespace {

// This rank's part of the shared expert in the block at hand.
at::Tensor& shared_part() {
  thread_local at::Tensor part;
  return part;
}

// The mixture's sum over tp takes every rank's routed part, but only the own shared part.
class KeepOwnShared : public PassOn {
 public:
  using PassOn::PassOn;
  at::Tensor all_reduce(const impl::Group& group, const at::Tensor& x, const impl::Site& site) override {
    const at::Tensor sum = inner().all_reduce(group, x, site);
    if (!glob_match("*.mlp.experts", site)) return sum;
    const at::Tensor own = shared_part();
    return sum - inner().all_reduce(group, own, site + ".shared") + own;
  }
};

}  // namespace

Fault shared_expert_gate_double_gather() {
  return {"shared-expert-gate-double-gather",
          "under sp the shared expert's gate is computed from the gathered tokens and summed over tp again",
          "sgl-project/sglang#26845",
          "grads",
          "model.layers.*.mlp.shared_expert_gate.weight",
          "mixture of experts of layer 0 computes something else",
          {"--model tiny-moe --batch rows --mesh tp2 --sp on",
           "--model tiny-moe --batch packed-odd --mesh fsdp2.tp3 --sp on"},
          [](impl::Seams& seams) {
            seams.plan = note_rank;
            seams.primitives = [](impl::Primitives& p) {
              p.shared_expert_gate = [right = p.shared_expert_gate](const at::Tensor& shared,
                                                                    const at::Tensor& gate) {
                return right(shared, gate * this_rank().mesh.tp);
              };
            };
          }};
}

Fault shared_expert_partial_not_reduced() {
  return {"shared-expert-partial-not-reduced",
          "the shared expert's partial output is added to an already reduced routed output",
          "vllm-project/tpu-inference#3435",
          "logits",
          "logits",
          "mixture of experts of layer 0 computes something else",
          {"--model tiny-moe --batch rows --mesh tp2", "--model tiny-moe --batch single --mesh fsdp2.tp3"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.shared_expert_gate = [right = p.shared_expert_gate](const at::Tensor& shared,
                                                                    const at::Tensor& gate) {
                const at::Tensor out = right(shared, gate);
                shared_part() = out.detach();
                return out;
              };
            };
            seams.collectives = wrap_collectives<KeepOwnShared>();
          }};
}

}  // namespace meshparity::faults

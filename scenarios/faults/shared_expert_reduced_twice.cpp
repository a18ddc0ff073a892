// The shared expert's output is already reduced over tp when it enters the mixture's all-reduce: it counts tp
// times.
#include <atomic>

#include "impl/blocks/primitives.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault shared_expert_reduced_twice() {
  return {"shared-expert-reduced-twice",
          "a shared-expert output that is already reduced goes through the all-reduce of the mixture again",
          "sgl-project/sglang#26845",
          "grads",
          "model.layers.*.mlp.shared_expert.down_proj.weight",
          "mixture of experts of layer 0 computes something else",
          {"--model tiny-moe --batch rows --mesh tp2", "--model tiny-moe --batch single --mesh tp3 --sp on"},
          [](impl::Seams& seams) {
            // The plan is the seam that knows the mesh; all ranks store the same number.
            auto tp = std::make_shared<std::atomic<int>>(1);
            seams.plan = [tp](impl::Plan&, const Mesh& mesh) { *tp = mesh.tp; };
            seams.primitives = [tp](impl::Primitives& p) {
              p.shared_expert_gate = [right = p.shared_expert_gate, tp](const at::Tensor& shared,
                                                                        const at::Tensor& gate) {
                return right(shared, gate) * tp->load();
              };
            };
          }};
}

}  // namespace meshparity::faults

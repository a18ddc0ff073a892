// Gradients are not cleared between optimizer steps: step 2 sees the sum of both.
#include "impl/train/optimizer.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault zero_grad_missing() {
  return {"zero-grad-missing",
          "gradients are not cleared between steps: step 2 runs on the sum of both",
          "TrainCheck, stackoverflow-60335387",
          "weights",
          "step2/model.layers.*",
          "gradients not cleared between steps",
          {"--model tiny-dense --batch rows --mesh dp1", "--model tiny-moe --batch rows --mesh fsdp2.tp2"},
          [](impl::Seams& seams) {
            seams.optimizer = [](impl::Optimizer& optimizer) {
              optimizer.zero_gradients = [right = optimizer.zero_gradients, first = true]() mutable {
                if (first) right();
                first = false;
              };
            };
          }};
}

}  // namespace meshparity::faults

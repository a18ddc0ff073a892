// Router weights: top-k probabilities not renormalised, or renormalised before the choice; and scores rounded
// to bfloat16.
#include "impl/blocks/primitives.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {

Fault topk_norm_missing() {
  return {"topk-norm-missing",
          "the chosen experts' probabilities are not renormalised to sum 1",
          "pytorch/torchtitan#1448",
          "logits",
          "logits",
          "mixture of experts of layer 0 computes something else",
          {"--model tiny-moe --batch rows --mesh tp2", "--model tiny-moe --batch single --mesh dp1"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.route = [right = p.route](const at::Tensor& logits, std::int64_t k) {
                impl::Routing routing = right(logits, k);
                routing.weights = logits.softmax(-1).gather(-1, routing.experts);
                return routing;
              };
            };
          }};
}

Fault router_gemm_bf16_out() {
  return {"router-gemm-bf16-out",
          "router scores rounded to bfloat16 before softmax and top-k",
          "marin-community/marin#8435",
          "logits",
          "logits",
          "low precision inside mixture of experts of layer 0",
          {"--model tiny-moe --batch rows --mesh fsdp2",
           "--model tiny-moe --batch packed-odd --mesh tp2 --sp on"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.route = [right = p.route](const at::Tensor& logits, std::int64_t k) {
                return right(logits.to(at::kBFloat16).to(logits.scalar_type()), k);
              };
            };
          }};
}

}  // namespace meshparity::faults

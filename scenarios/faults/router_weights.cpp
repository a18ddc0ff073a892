// Router weights: top-k probabilities not renormalised, or renormalised before the choice; and scores rounded
// to bfloat16, in both runs of a layer or in the second alone.
#include "impl/blocks/primitives.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {
namespace {

// Is a layer running for the second time, in backward?
bool& second_run() {
  thread_local bool running = false;
  return running;
}

}  // namespace

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

Fault softmax_topk_order() {
  return {"softmax-topk-order",
          "the router's backward is that of a softmax before the choice, without the renormalisation that "
          "makes both orders one function",
          "NVIDIA/Megatron-LM#955",
          "grads",
          "model.layers.*.mlp.gate.weight",
          "backward pass wrong from model.layers.4.mlp.gate.weight on",
          {"--model tiny-moe --batch rows --mesh dp1", "--model tiny-moe --batch rows --mesh uly2.ep2"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.route = [right = p.route](const at::Tensor& logits, std::int64_t k) {
                impl::Routing routing = right(logits, k);
                const at::Tensor chosen = logits.softmax(-1).gather(-1, routing.experts);
                routing.weights = routing.weights.detach() + (chosen - chosen.detach());
                return routing;
              };
            };
          }};
}

Fault recompute_topk_flip() {
  return {"recompute-topk-flip",
          "the second run of a layer chooses experts from scores of lower precision: tokens near a tie go "
          "elsewhere in backward than they went in forward",
          "NVIDIA-NeMo/Automodel#3140",
          "grads",
          "model.layers.*.mlp.experts.*",
          "tokens routed to other experts in the backward pass of layer *",
          {"--model tiny-moe --batch rows --mesh dp1 --recompute on",
           "--model tiny-moe --batch rows --mesh uly2.ep2 --recompute on"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.recomputed = [right = p.recomputed](
                                 const at::Tensor& x,
                                 const std::function<at::Tensor(const at::Tensor&)>& first,
                                 const std::function<at::Tensor(const at::Tensor&)>& again) {
                return right(x, first, [again](const at::Tensor& y) {
                  second_run() = true;
                  const at::Tensor out = again(y);
                  second_run() = false;
                  return out;
                });
              };
              p.route = [right = p.route](const at::Tensor& logits, std::int64_t k) {
                impl::Routing routing = right(logits, k);
                if (!second_run()) return routing;
                const at::Tensor coarse = logits.detach().to(at::kBFloat16).to(logits.scalar_type());
                routing.experts = right(coarse, k).experts;
                const at::Tensor chosen = logits.softmax(-1).gather(-1, routing.experts);
                routing.weights = chosen / chosen.sum(-1, true);
                return routing;
              };
            };
          },
          {"--model tiny-moe --batch rows --mesh dp1"}};
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

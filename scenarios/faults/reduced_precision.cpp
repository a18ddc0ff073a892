// Low precision or a wrong kernel where nothing else is: the backward pass alone, or a state on its way.
#include "impl/blocks/primitives.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {
namespace {

class RoundSecondReduction : public PassOn {
 public:
  using PassOn::PassOn;
  at::Tensor all_reduce(const impl::Group& group, const at::Tensor& x, const impl::Site& site) override {
    if (site != "gradients.tp") return inner().all_reduce(group, x, site);
    return inner().all_reduce(group, x.to(at::kBFloat16), site).to(x.scalar_type());
  }
};

}  // namespace

Fault fsdp_reduce_dtype_partial() {
  return {
      "fsdp-reduce-dtype-partial",
      "the reduction dtype holds for the reduce-scatter over fsdp, the all-reduce over tp runs in bfloat16",
      "pytorch/pytorch#190627",
      "grads",
      "model.layers.*.linear_attn.norm.weight",
      "gradient rounded to bfloat16",
      {"--model tiny-dense --batch rows --mesh fsdp2.tp2",
       "--model tiny-moe --batch packed-odd --mesh fsdp2.tp3 --sp on"},
      [](impl::Seams& seams) { seams.collectives = wrap_collectives<RoundSecondReduction>(); }};
}

Fault ce_grad_rounded_before_subtract() {
  return {"ce-grad-rounded-before-subtract",
          "softmax of the label is rounded to bfloat16 before 1 is subtracted from it",
          "linkedin/Liger-Kernel#1329",
          "grads",
          "lm_head.weight",
          "low precision in the backward pass from lm_head.weight on",
          {"--model tiny-dense --batch rows --mesh fsdp2", "--model tiny-moe --batch packed-odd --mesh tp2"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.logit_gradient = [right = p.logit_gradient](const at::Tensor& logits, const at::Tensor& lse,
                                                            const at::Tensor& labels, std::int64_t begin,
                                                            const at::Tensor& dlogprob) {
                const at::Tensor d = right(logits, lse, labels, begin, dlogprob);
                // Without labels only the softmax part is left.
                const at::Tensor softmax =
                    right(logits, lse, at::full_like(labels, kIgnoreLabel), begin, dlogprob);
                const at::Tensor rounded = softmax.to(at::kBFloat16).to(softmax.scalar_type());
                return at::where(d.ne(softmax), d - softmax + rounded, d);
              };
            };
          }};
}

Fault gdn_bwd_kernel_miscompiled() {
  return {"gdn-bwd-kernel-miscompiled",
          "the delta rule's backward kernel gives scaled gradients of keys and betas; its forward is exact",
          "fla-org/flash-linear-attention#984",
          "grads",
          "model.layers.*.linear_attn.in_proj_b.weight",
          "only section 1 of 3 is wrong in the gradient of model.layers.4.linear_attn.*",
          {"--model tiny-dense --batch rows --mesh tp2", "--model tiny-moe --batch single --mesh fsdp2"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.delta_rule = [right = p.delta_rule](const at::Tensor& qk, const at::Tensor& v,
                                                    const at::Tensor& g, const at::Tensor& beta,
                                                    const impl::PackedTokens& tokens, std::int64_t key_dim) {
                if (impl::needs_grad({beta})) {
                  beta.register_hook([](const at::Tensor& grad) { return grad * 0.68; });
                  qk.register_hook([](const at::Tensor& grad) {
                    const auto halves = grad.chunk(2, 1);
                    return at::cat({halves[0], halves[1] * 0.54}, 1);
                  });
                }
                return right(qk, v, g, beta, tokens, key_dim);
              };
            };
          }};
}

Fault gdn_state_lowprec() {
  return {"gdn-state-lowprec",
          "the recurrent state is handed from chunk to chunk in bfloat16",
          "NVIDIA/TensorRT-Model-Connect#725",
          "logits",
          "logits",
          "low precision inside GatedDeltaNet of layer 0|only ring index 1 is wrong in the output of "
          "GatedDeltaNet of layer 0",
          {"--model tiny-dense --batch single --mesh ring2", "--model tiny-moe --batch rows --mesh ring3"},
          damaged("*.linear_attn.states",
                  [](const at::Tensor& x, const impl::Group&) {
                    return x.to(at::kBFloat16).to(x.scalar_type());
                  }),
          // By heads no state leaves its rank.
          {"--model tiny-dense --batch single --mesh ring2 --gdn heads"}};
}

}  // namespace meshparity::faults

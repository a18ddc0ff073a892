// Ring attention put together wrongly from its parts: the log-sum-exp that merges them overflows, is rounded,
// or is not the one that the backward pass needs.
#include <limits>

#include "impl/blocks/primitives.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {
namespace {

using impl::PartialAttention;

at::Tensor in_bfloat16(const at::Tensor& x) {
  return x.to(at::kBFloat16).to(x.scalar_type());
}

}  // namespace

Fault ring_bwd_local_lse() {
  return {"ring-bwd-local-lse",
          "the backward of ring attention takes every step's own output and log-sum-exp instead of the final "
          "ones",
          "NVIDIA/TransformerEngine#1557",
          "grads",
          "model.layers.3.self_attn.*",
          "backward pass wrong from model.layers.3.self_attn.*",
          {"--model tiny-dense --batch single --mesh ring2", "--model tiny-moe --batch rows --mesh ring3"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.ring.part_backward = [part = p.ring.part, right = p.ring.part_backward](
                                         const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                         const at::Tensor& bias, const PartialAttention&,
                                         const at::Tensor& dout) {
                PartialAttention local = part(q, k, v, bias);
                // A query that saw no key in this step has nothing to send back.
                local.lse.masked_fill_(local.lse.isneginf(), std::numeric_limits<double>::infinity());
                return right(q, k, v, bias, local, dout);
              };
            };
          }};
}

Fault ring_out_bf16_accum() {
  return {"ring-out-bf16-accum",
          "the parts of ring attention are returned and merged in bfloat16: the error grows with the ring",
          "zhuzilin/ring-flash-attention#42",
          "logits",
          "logits",
          "low precision inside attention of layer 3",
          {"--model tiny-dense --batch single --mesh ring3", "--model tiny-moe --batch rows --mesh ring5"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.ring.merge = [right = p.ring.merge](const PartialAttention& so_far,
                                                    const PartialAttention& part) {
                const auto rounded = [](const PartialAttention& x) {
                  return PartialAttention{in_bfloat16(x.o), in_bfloat16(x.lse)};
                };
                return rounded(right(rounded(so_far), rounded(part)));
              };
            };
          }};
}

Fault ring_lse_exp_overflow() {
  return {"ring-lse-exp-overflow",
          "parts are merged by lse + log(1 + exp(difference)), which overflows where scores lie far apart",
          "jzhang38/EasyContext#14",
          "logits",
          "logits",
          "*attention of layer 3*",
          {"--model tiny-sharp --batch single --mesh ring2", "--model tiny-sharp --batch rows --mesh ring3"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.ring.merge = [](const PartialAttention& so_far, const PartialAttention& part) {
                const at::Tensor lse = so_far.lse + (part.lse - so_far.lse).exp().add_(1).log_();
                const auto share = [&](const PartialAttention& x) {
                  return (x.lse - lse).exp().unsqueeze(3);
                };
                return PartialAttention{so_far.o * share(so_far) + part.o * share(part), lse};
              };
            };
          },
          // No score of theirs is far enough from another.
          {"--model tiny-dense --batch single --mesh ring2", "--model tiny-moe --batch rows --mesh ring3"}};
}

}  // namespace meshparity::faults

// Low precision where it does not belong: equal on every mesh, so only a reference in float64 shows it.
#include "impl/blocks/dtype_policy.h"
#include "impl/blocks/primitives.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {
namespace {

at::Tensor through_bfloat16(const at::Tensor& x) {
  return x.to(at::kBFloat16).to(x.scalar_type());
}

}  // namespace

Fault a_log_bf16() {
  return {"a-log-bf16",
          "A_log stored in bfloat16: every decay is off by a constant factor, the error grows with distance",
          "sgl-project/sglang#20741",
          "grads",
          "model.layers.*.linear_attn.A_log",
          "weight rounded to bfloat16 when loaded",
          {"--model tiny-dense --batch rows --mesh fsdp2", "--model tiny-moe --batch single --mesh dp1"},
          [](impl::Seams& seams) {
            seams.dtypes = [](impl::DtypePolicy& policy) {
              policy.stored = [](const std::string& name, const at::Tensor& value) {
                return glob_match("*.A_log", name) ? through_bfloat16(value) : value;
              };
            };
          }};
}

Fault logits_bf16_lse() {
  return {"logits-bf16-lse",
          "log-sum-exp and label logits taken of logits rounded to bfloat16",
          "AI-Hypercomputer/maxtext#5231",
          "logprobs",
          "logprobs",
          "log-softmax of logits rounded to bfloat16",
          {"--model tiny-dense --batch rows --mesh tp2", "--model tiny-moe --batch packed-odd --mesh fsdp2"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.logit_sums = [right = p.logit_sums](const at::Tensor& logits, const at::Tensor& max,
                                                    const at::Tensor& labels, std::int64_t begin) {
                return right(through_bfloat16(logits), max, labels, begin);
              };
            };
          }};
}

}  // namespace meshparity::faults

// What a sampler makes of logits: temperature, and the tokens that top-p leaves. See rollout.h.
#include "reference/rollout/sampling.h"

#include <ATen/core/grad_mode.h>

#include <limits>

#include "reference/blocks/loss.h"
#include "reference/rollout/rollout.h"

namespace meshparity::reference {

at::Tensor support_of(const at::Tensor& probabilities, double top_p) {
  // The sum of all is 1 but for rounding, which must not drop the last ones.
  if (top_p >= 1) return at::ones_like(probabilities, at::kBool);
  const auto [sorted, order] = at::sort(probabilities, /*stable=*/true, /*dim=*/-1, /*descending=*/true);
  const at::Tensor up_to = at::cumsum(sorted, -1).slice(-1, 0, -1);
  const at::Tensor before = at::constant_pad_nd(up_to, {1, 0});
  return at::zeros_like(probabilities, at::kBool).scatter(-1, order, before < top_p);
}

TensorMap sampled(const at::Tensor& logits, const Batch& batch, const RolloutSpec& spec) {
  const at::NoGradGuard guard;
  const at::Tensor labels = at::tensor(batch.labels, at::kLong);
  const at::Tensor scaled = logits / spec.temperature;
  const at::Tensor support = support_of(at::softmax(scaled, -1), spec.top_p);
  const at::Tensor valid = labels != kIgnoreLabel;
  const at::Tensor within =
      support.gather(-1, labels.clamp_min(0).unsqueeze(1)).squeeze(1).logical_and(valid);
  const at::Tensor kept = scaled.masked_fill(support.logical_not(), -std::numeric_limits<double>::infinity());
  TensorMap results;
  results["rollout/logprobs"] = label_logprobs(scaled, labels);
  results["rollout/sampling_logprobs"] = label_logprobs(kept, labels).masked_fill(within.logical_not(), 0);
  results["rollout/in_support"] = within.to(at::kLong);
  return results;
}

}  // namespace meshparity::reference

// Counts of labels that a fault of the loss needs, and gradients scaled by them at an unchanged loss.
#pragma once

#include "impl/blocks/primitives.h"
#include "impl/train/loss.h"
#include "scenarios/faults/decorators.h"
#include "scenarios/faults/this_rank.h"

namespace meshparity::faults {

// Valid labels of this rank and of the batch, and over how many ranks they are summed.
struct LabelCounts {
  double own = 0, all = 0, ranks = 1;
};
inline LabelCounts& label_counts() {
  thread_local LabelCounts counts;
  return counts;
}

// A normaliser hook that only notes; it runs before the counts are made global.
inline void note_counts(impl::Normaliser& normaliser) {
  const at::Tensor sums = normaliser.sum_over_data_ranks(at::tensor({normaliser.tokens(), 1.0}, at::kDouble));
  label_counts() = {normaliser.tokens(), sums[0].item<double>(), sums[1].item<double>()};
}

// Scales the gradient that reaches the logprobs, and with it every parameter's, on the meshes that `where`
// names. The loss that is logged stays as it is.
inline auto scaled_gradient(std::function<double(const LabelCounts&)> factor, bool (*where)(const Mesh&)) {
  return [factor = std::move(factor), where](impl::Seams& seams) {
    seams.plan = note_rank;
    seams.normaliser = note_counts;
    seams.primitives = [factor, where](impl::Primitives& p) {
      p.logit_gradient = [factor, where, right = p.logit_gradient](
                             const at::Tensor& logits, const at::Tensor& lse, const at::Tensor& labels,
                             std::int64_t begin, const at::Tensor& dlogprob) {
        const double times = where(this_rank().mesh) ? factor(label_counts()) : 1;
        return right(logits, lse, labels, begin, dlogprob * times);
      };
    };
  };
}

}  // namespace meshparity::faults

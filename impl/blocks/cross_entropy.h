// The local pieces of a cross entropy over vocabulary shards. A rank holds columns [begin, begin + Vl) of the
// logits; the pieces are joined by collectives in embedding.cpp, so full logits never exist anywhere. Source:
// qwen35.md 4.10. Shapes: T tokens, Vl local vocabulary (may be 0). Labels are global ids; negative = no
// loss.
#pragma once

#include <ATen/ATen.h>

namespace meshparity::impl {

// [T] largest local logit; -inf where the rank holds no column.
at::Tensor logit_max(const at::Tensor& logits);

// [2, T]: sum over local columns of exp(logit - max), and (label's logit - max) where the label is a local
// column, else 0. Both are summed over the ranks.
at::Tensor logit_sums(const at::Tensor& logits, const at::Tensor& max, const at::Tensor& labels,
                      std::int64_t begin);

// d logits [T, Vl] = (1[label] - exp(logit - lse)) * dlogprob; dlogprob [T] is 0 where there is no loss.
at::Tensor logit_gradient(const at::Tensor& logits, const at::Tensor& lse, const at::Tensor& labels,
                          std::int64_t begin, const at::Tensor& dlogprob);

}  // namespace meshparity::impl

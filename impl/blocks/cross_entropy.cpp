#include "impl/blocks/cross_entropy.h"

#include <limits>

namespace meshparity::impl {
namespace {

struct Targets {
  at::Tensor column;  // [T, 1] local column, clamped into range
  at::Tensor owned;   // [T] 1 where the label is a local column
};

Targets targets_of(const at::Tensor& labels, std::int64_t begin, const at::Tensor& logits) {
  const at::Tensor column = labels - begin;
  const at::Tensor clamped = column.clamp(0, logits.size(1) - 1);
  return {clamped.unsqueeze(1), clamped.eq(column).to(logits.scalar_type())};
}

}  // namespace

at::Tensor logit_max(const at::Tensor& logits) {
  if (logits.size(1) == 0)
    return at::full({logits.size(0)}, -std::numeric_limits<double>::infinity(), logits.options());
  return logits.amax(1);
}

at::Tensor logit_sums(const at::Tensor& logits, const at::Tensor& max, const at::Tensor& labels,
                      std::int64_t begin) {
  if (logits.size(1) == 0) return at::zeros({2, logits.size(0)}, logits.options());
  const auto [column, owned] = targets_of(labels, begin, logits);
  const at::Tensor shifted = logits - max.unsqueeze(1);
  const at::Tensor picked = shifted.gather(1, column).squeeze(1).mul_(owned);
  return at::stack({shifted.exp_().sum(1), picked});
}

at::Tensor logit_gradient(const at::Tensor& logits, const at::Tensor& lse, const at::Tensor& labels,
                          std::int64_t begin, const at::Tensor& dlogprob) {
  if (logits.size(1) == 0) return at::zeros_like(logits);
  const auto [column, owned] = targets_of(labels, begin, logits);
  at::Tensor d = (logits - lse.unsqueeze(1)).exp_().mul_(dlogprob.neg().unsqueeze(1));
  return d.scatter_add_(1, column, (owned * dlogprob).unsqueeze(1));
}

}  // namespace meshparity::impl

#include "impl/rollout/sampling.h"

namespace meshparity::impl {
namespace {

constexpr std::int64_t kTokensAtOnce = 256;  // bounds the memory of gathered vocabularies

// The probability of the smallest set of most probable tokens that holds top_p, [n], and whether the label is
// in it.
struct Support {
  at::Tensor mass, holds;
};
Support support_of(const at::Tensor& logits, const at::Tensor& labels, double top_p) {
  const auto [p, id] = at::sort(at::_softmax(logits, 1, /*half_to_float=*/false), /*stable=*/true, /*dim=*/1,
                                /*descending=*/true);
  // A token is in the set if those before it hold less.
  const at::Tensor inside = (p.cumsum(1) - p).lt(top_p);
  return {(p * inside).sum(1), id.eq(labels.unsqueeze(1)).logical_and_(inside).any(1)};
}

}  // namespace

at::Tensor SampledTokens::logprobs(const at::Tensor& logits) const {
  const bool sharded = tp.size() > 1;
  at::Tensor max = primitives.logit_max(logits);
  if (sharded) max = collectives.all_reduce_max(tp, max, "rollout.logprobs.max");
  at::Tensor sums = primitives.logit_sums(logits, max, labels, begin);
  if (sharded) sums = collectives.all_reduce(tp, sums, "rollout.logprobs.sums");
  return sums.select(0, 1) - sums.select(0, 0).log();
}

SampledLogprobs SampledTokens::sample(const at::Tensor& logits, double temperature, double top_p) const {
  const at::Tensor scaled = temperature == 1 ? logits : logits / temperature;
  const at::Tensor counted = labels.ge(0);
  const at::Tensor whole = logprobs(scaled);
  SampledLogprobs out{whole * counted, whole * counted, counted.to(at::kLong)};
  if (top_p >= 1) return out;
  Tensors masses, holds;
  for (std::int64_t t = 0; t < labels.size(0); t += kTokensAtOnce) {
    const std::int64_t end = std::min(t + kTokensAtOnce, labels.size(0));
    const at::Tensor all =
        collectives.all_gather(tp, scaled.slice(0, t, end), vocabulary_sizes, 1, "rollout.top_p");
    Support support = support_of(all, labels.slice(0, t, end), top_p);
    masses.push_back(support.mass), holds.push_back(support.holds);
  }
  if (masses.empty()) return out;
  const at::Tensor in = at::cat(holds).logical_and_(counted);
  out.sampling = (whole - at::cat(masses).log()) * in;
  out.in_support = in.to(at::kLong);
  return out;
}

}  // namespace meshparity::impl

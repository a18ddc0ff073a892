#include "impl/parallel/partial_attention.h"

namespace meshparity::impl {
namespace {

at::Tensor scores_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& bias) {
  at::Tensor scores = at::matmul(q, k.transpose(2, 3));
  if (bias.defined()) scores.add_(bias);
  return scores;
}

}  // namespace

PartialAttention partial_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const at::Tensor& bias) {
  const at::Tensor scores = scores_of(q, k, bias), lse = at::logsumexp(scores, {3});
  // exp(-inf - lse) is zero for any finite lse: a query without a key gets zeros, not 0 / 0.
  const at::Tensor finite = lse.masked_fill(lse.isneginf(), 0);
  return {at::matmul((scores - finite.unsqueeze(3)).exp_(), v), lse};
}

PartialAttention merge_attention(const PartialAttention& so_far, const PartialAttention& part) {
  const at::Tensor lse = at::logaddexp(so_far.lse, part.lse);
  const auto share = [&](const PartialAttention& p) { return (p.lse - lse).exp_().unsqueeze(3); };
  return {(so_far.o * share(so_far)).add_(part.o * share(part)), lse};
}

Tensors partial_attention_backward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const at::Tensor& bias, const PartialAttention& whole,
                                   const at::Tensor& dout) {
  const at::Tensor p = (scores_of(q, k, bias) - whole.lse.unsqueeze(3)).exp_();
  const at::Tensor delta = (dout * whole.o).sum(3, true);
  const at::Tensor ds = p * (at::matmul(dout, v.transpose(2, 3)) - delta);
  // Summed over the query heads of a key-value head.
  return {at::matmul(ds, k), at::matmul(ds.transpose(2, 3), q).sum(1, true),
          at::matmul(p.transpose(2, 3), dout).sum(1, true)};
}

}  // namespace meshparity::impl

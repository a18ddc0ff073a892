#include "impl/blocks/embedding.h"

namespace meshparity::impl {

at::Tensor embedding_lookup(const at::Tensor& table, const at::Tensor& ids, std::int64_t begin) {
  const bool empty = table.size(0) == 0;
  at::Tensor row, owned, y;
  {
    const BelowAutograd guard;
    if (empty) {
      y = at::zeros({ids.size(0), table.size(1)}, table.options());
    } else {
      const at::Tensor shifted = ids - begin;
      row = shifted.clamp(0, table.size(0) - 1);
      owned = row.eq(shifted).unsqueeze(1).to(table.scalar_type());
      y = table.index_select(0, row).mul_(owned);
    }
  }
  return attach("embedding_lookup", {table}, {y}, [table, row, owned, empty](const Tensors& grads) {
    at::Tensor d = at::zeros_like(table);
    return Tensors{empty ? d : d.index_add_(0, row, grads[0] * owned)};
  })[0];
}

at::Tensor embed(const BlockContext& context, const at::Tensor& table, const at::Tensor& ids,
                 std::int64_t begin, const Site& site) {
  return context.tp.leave(context.primitives.embedding_lookup(table, ids, begin), site);
}

HeadOutput head_logprobs(const BlockContext& context, const at::Tensor& h, const at::Tensor& head,
                         const at::Tensor& labels, std::int64_t begin, bool log_sums, const Site& site) {
  const at::Tensor logits = context.primitives.head_linear(context.tp.enter(h, site), {head})[0];
  at::Tensor local, lse, valid, logprobs;
  {
    const BelowAutograd guard;
    local = shared_view(logits);
    Collectives& collectives = *context.tp.collectives;
    const Group& group = *context.tp.group;
    const bool sharded = group.size() > 1;
    at::Tensor max = context.primitives.logit_max(local);
    if (sharded) max = collectives.all_reduce_max(group, max, site + ".max");
    at::Tensor sums = context.primitives.logit_sums(local, max, labels, begin);
    if (sharded) sums = collectives.all_reduce(group, sums, site + ".sums");
    const at::Tensor log_sum = sums.select(0, 0).log();
    lse = log_sum + max;
    valid = labels.ge(0).to(local.scalar_type());
    logprobs = (sums.select(0, 1) - log_sum).mul_(valid);
  }
  const auto gradient = context.primitives.logit_gradient;
  if (!log_sums) {
    attach("logprobs", {logits}, {logprobs},
           [gradient, local, lse, labels, valid, begin](const Tensors& grads) {
             return Tensors{gradient(local, lse, labels, begin, grads[0] * valid)};
           });
    return {local, logprobs, {}};
  }
  at::Tensor sums_out;
  {
    const BelowAutograd guard;
    sums_out = shared_view(lse);
  }
  attach("logprobs", {logits}, {logprobs, sums_out},
         [gradient, local, lse, labels, valid, begin](const Tensors& grads) {
           // d lse is softmax: the gradient of a log-probability of no label, reversed.
           const at::Tensor none = at::full_like(labels, -1);
           return Tensors{gradient(local, lse, labels, begin, grads[0] * valid) +
                          gradient(local, lse, none, begin, grads[1].neg())};
         });
  return {local, logprobs, sums_out};
}

}  // namespace meshparity::impl

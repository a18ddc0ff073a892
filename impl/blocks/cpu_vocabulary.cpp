// The ends of the model in cpu_primitives.h: lookup in a vocabulary shard and the local pieces of the cross
// entropy.
#include <cmath>

#include "impl/blocks/cpu_primitives.h"
#include "impl/blocks/cpu_products.h"
#include "impl/blocks/cpu_tensors.h"
#include "impl/blocks/cross_entropy.h"
#include "impl/blocks/embedding.h"

namespace meshparity::impl::cpu {

at::Tensor embedding_lookup(const at::Tensor& table_in, const at::Tensor& ids_in, std::int64_t begin) {
  if (!fusable({table_in})) return impl::embedding_lookup(table_in, ids_in, begin);
  const at::Tensor ids = ids_in.contiguous();
  // Calls f(token, local row) for the tokens whose row is here.
  const auto owned = [ids, begin](std::int64_t rows, auto&& f) {
    const auto* id = ids.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < ids.numel(); ++i)
      if (id[i] >= begin && id[i] < begin + rows) f(i, id[i] - begin);
  };
  at::Tensor y;
  {
    const BelowAutograd guard;
    const at::Tensor table = dense_rows(table_in);
    y = at::zeros({ids.numel(), table.size(1)}, table.options());
    with_type(table, [&]<class T>(T) {
      const In<T> from = in<T>(table);
      owned(from.rows, [&](std::int64_t i, std::int64_t r) {
        std::copy_n(from.row(r), from.columns, out<T>(y).row(i));
      });
    });
  }
  const at::Tensor like = table_in.detach();
  return attach("embedding_lookup", {table_in}, {y}, [like, owned](const Tensors& grads) {
    const at::Tensor dy = dense_rows(grads[0]), dtable = at::zeros(like.sizes(), like.options());
    with_type(dy, [&]<class T>(T) {
      const Rows<T> into = out<T>(dtable);
      owned(into.rows,
            [&](std::int64_t i, std::int64_t r) { axpy(into.row(r), T(1), in<T>(dy).row(i), into.columns); });
    });
    return Tensors{dtable};
  })[0];
}

at::Tensor logit_sums(const at::Tensor& logits_in, const at::Tensor& max, const at::Tensor& labels,
                      std::int64_t begin) {
  if (!fusable({logits_in, max}) || !max.is_contiguous() || !labels.is_contiguous())
    return impl::logit_sums(logits_in, max, labels, begin);
  const at::Tensor logits = dense_rows(logits_in), sums = at::empty({2, logits.size(0)}, logits.options());
  with_type(logits, [&]<class T>(T) {
    const In<T> x = in<T>(logits);
    const auto* label = labels.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < x.rows; ++i) {
      const T m = max.const_data_ptr<T>()[i];
      T total = 0;
      for (std::int64_t j = 0; j < x.columns; ++j) total += std::exp(x.row(i)[j] - m);
      const bool here = label[i] >= begin && label[i] < begin + x.columns;
      out<T>(sums).row(0)[i] = total;
      out<T>(sums).row(1)[i] = here ? x.row(i)[label[i] - begin] - m : T(0);
    }
  });
  return sums;
}

at::Tensor logit_gradient(const at::Tensor& logits_in, const at::Tensor& lse, const at::Tensor& labels,
                          std::int64_t begin, const at::Tensor& dlogprob) {
  if (!fusable({logits_in, lse, dlogprob}) || !lse.is_contiguous() || !labels.is_contiguous() ||
      !dlogprob.is_contiguous())
    return impl::logit_gradient(logits_in, lse, labels, begin, dlogprob);
  const at::Tensor logits = dense_rows(logits_in), dlogits = empty_rows(logits);
  with_type(logits, [&]<class T>(T) {
    const In<T> x = in<T>(logits);
    const auto* label = labels.const_data_ptr<std::int64_t>();
    for (std::int64_t i = 0; i < x.rows; ++i) {
      const T d = dlogprob.const_data_ptr<T>()[i], l = lse.const_data_ptr<T>()[i];
      T* row = out<T>(dlogits).row(i);
      for (std::int64_t j = 0; j < x.columns; ++j) row[j] = -d * std::exp(x.row(i)[j] - l);
      if (label[i] >= begin && label[i] < begin + x.columns) row[label[i] - begin] += d;
    }
  });
  return dlogits;
}

}  // namespace meshparity::impl::cpu

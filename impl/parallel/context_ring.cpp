#include "impl/parallel/context_ring.h"

#include <cmath>
#include <limits>

#include "harness/types/cut.h"
#include "impl/parallel/index_tensor.h"

namespace meshparity::impl {
namespace {

// [T, Hkv*g*d] -> [Hkv, g, T, d].
at::Tensor by_head(const at::Tensor& x, std::int64_t kv_heads, std::int64_t d) {
  const std::int64_t n = x.size(0), g = x.size(1) / (kv_heads * d);
  return x.view({n, kv_heads, g, d}).permute({1, 2, 0, 3}).contiguous();
}
at::Tensor by_token(const at::Tensor& x) {
  const std::int64_t h = x.size(0), g = x.size(1), n = x.size(2), d = x.size(3);
  return x.permute({2, 0, 1, 3}).reshape({n, h * g * d});
}

at::Tensor some(const at::Tensor& x, bool all, const at::Tensor& rows) {
  return all ? x : x.index_select(2, rows);
}

// The next rank's rows, while ours go on: one hop around the ring.
at::Tensor hop(Collectives& c, const Group& ring, const at::Tensor& x, std::int64_t arriving,
               const Site& site) {
  const int n = ring.size(), me = ring.rank();
  std::vector<std::int64_t> send(n, 0), recv(n, 0);
  send[(me + 1) % n] = x.size(0);
  recv[(me + n - 1) % n] = arriving;
  return c.all_to_all(ring, x, send, recv, site);
}

// Does this place of a ring index's list belong to the front chunks?
std::vector<bool> front_of(const ContextStream& stream, ContextOrder order, ContextSize size, int r) {
  std::vector<bool> front;
  const auto add = [&](std::int64_t n) {
    front.insert(front.end(), cut(n, 2 * size.ring, r).size(), true);
    front.insert(front.end(), cut(n, 2 * size.ring, 2 * size.ring - 1 - r).size(), false);
  };
  for (std::size_t row = 0; row + 1 < stream.rows.size(); ++row) {
    if (order == ContextOrder::zigzag) {
      add(stream.rows[row + 1] - stream.rows[row]);
      continue;
    }
    for (std::size_t d = 0; d + 1 < stream.documents.size(); ++d)
      if (stream.documents[d] >= stream.rows[row] && stream.documents[d] < stream.rows[row + 1])
        add(stream.documents[d + 1] - stream.documents[d]);
  }
  return front;
}

PartialAttention some(const PartialAttention& x, const RingStep& step) {
  return {some(x.o, step.all_queries, step.queries), some(x.lse, step.all_queries, step.queries)};
}

// Visits every source's keys and values in the order of the steps; `use(step, kv)` sees [keys, 2*Hkv*d + x]
// and may return what travels on in its place (same shape) or an undefined tensor.
template <class Use>
at::Tensor around(Collectives& c, const Group& ring, at::Tensor travelling, const RingTables& tables,
                  const Site& site, Use&& use) {
  const int n = ring.size();
  for (int i = 0; i < n; ++i) {
    const at::Tensor changed = use(tables.steps[i], travelling);
    if (changed.defined()) travelling = changed;
    if (i + 1 < n) travelling = hop(c, ring, travelling, tables.sizes[tables.steps[i + 1].source], site);
  }
  return travelling;
}

}  // namespace

at::Tensor causal_bias(const Tokens& queries, const Tokens& keys,
                       const std::vector<std::int64_t>& document_of, at::TensorOptions options) {
  const auto documents = [&](const Tokens& list) {
    std::vector<std::int64_t> out;
    for (const std::int64_t t : list) out.push_back(document_of[t]);
    return at::tensor(out, at::kLong);
  };
  const at::Tensor q = at::tensor(queries, at::kLong).unsqueeze(1),
                   k = at::tensor(keys, at::kLong).unsqueeze(0);
  const at::Tensor seen =
      documents(queries).unsqueeze(1).eq(documents(keys).unsqueeze(0)).logical_and_(k.le(q));
  if (seen.all().item<bool>()) return {};
  return at::zeros(seen.sizes(), options.device(at::kCPU))
      .masked_fill_(seen.logical_not(), -std::numeric_limits<double>::infinity())
      .to(options.device());
}

RingTables make_ring_tables(const ContextStream& stream, ContextOrder order, ContextSize size, int ring_index,
                            const std::vector<std::int64_t>& document_of, at::TensorOptions options) {
  RingTables tables;
  tables.rank = ring_index;
  std::vector<Tokens> lists;
  for (int r = 0; r < size.ring; ++r) {
    lists.push_back(ring_order(stream, order, size, r));
    tables.sizes.push_back(static_cast<std::int64_t>(lists.back().size()));
  }
  const Tokens& own = lists[ring_index];
  const std::vector<bool> own_front = front_of(stream, order, size, ring_index);
  for (int i = 0; i < size.ring; ++i) {
    RingStep step;
    step.source = (ring_index - i + size.ring) % size.ring;
    Tokens queries = own, keys = lists[step.source];
    if (step.source < ring_index) {
      const std::vector<bool> front = front_of(stream, order, size, step.source);
      std::vector<std::int64_t> picked;
      for (std::size_t j = 0; j < front.size(); ++j)
        if (front[j]) picked.push_back(static_cast<std::int64_t>(j));
      Tokens chosen;
      for (const std::int64_t j : picked) chosen.push_back(keys[j]);
      keys = chosen, step.all_keys = false;
      step.keys = index_tensor(picked, options.device());
    } else if (step.source > ring_index) {
      std::vector<std::int64_t> picked;
      for (std::size_t j = 0; j < own_front.size(); ++j)
        if (!own_front[j]) picked.push_back(static_cast<std::int64_t>(j));
      Tokens chosen;
      for (const std::int64_t j : picked) chosen.push_back(queries[j]);
      queries = chosen, step.all_queries = false;
      step.queries = index_tensor(picked, options.device());
    }
    step.empty = queries.empty() || keys.empty();
    if (!step.empty) step.bias = causal_bias(queries, keys, document_of, options);
    tables.steps.push_back(std::move(step));
  }
  return tables;
}

at::Tensor ring_attention(Collectives& collectives, const Group& ring, const RingKernels& kernels,
                          const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const RingTables& tables, std::int64_t head_dim, const Site& site) {
  const std::int64_t d = head_dim, kv_heads = k.size(1) / d, width = kv_heads * d;
  const double scale = 1.0 / std::sqrt(static_cast<double>(d));
  Collectives* const c = &collectives;
  const Group* const g = &ring;
  at::Tensor scaled, y;
  PartialAttention whole;
  // Columns [part] of what travels, by head, of the keys that meet the step's queries.
  const auto keys_of = [=](const RingStep& step, const at::Tensor& moving, std::int64_t part) {
    return some(by_head(moving.slice(1, part * width, (part + 1) * width), kv_heads, d), step.all_keys,
                step.keys);
  };
  {
    const BelowAutograd guard;
    scaled = by_head(q, kv_heads, d).mul_(scale);
    around(
        collectives, ring, at::cat({k, v}, 1), tables, site, [&](const RingStep& step, const at::Tensor& kv) {
          if (step.empty) return at::Tensor();
          const PartialAttention part = kernels.part(some(scaled, step.all_queries, step.queries),
                                                     keys_of(step, kv, 0), keys_of(step, kv, 1), step.bias);
          // Own keys come first, and every query sees itself.
          const PartialAttention merged = whole.o.defined() ? kernels.merge(some(whole, step), part) : part;
          if (step.all_queries) {
            whole = merged;
          } else {
            whole.o.index_copy_(2, step.queries, merged.o);
            whole.lse.index_copy_(2, step.queries, merged.lse);
          }
          return at::Tensor();
        });
    if (!whole.o.defined()) whole = {at::zeros_like(scaled), scaled.new_zeros(scaled.sizes().slice(0, 3))};
    y = by_token(whole.o);
  }
  const RingTables* const t = &tables;
  return attach("ring_attention", {q, k, v}, {y}, [=](const Tensors& grads) {
    const at::Tensor dout = by_head(grads[0].contiguous(), kv_heads, d);
    at::Tensor dq = at::zeros_like(scaled);
    const at::Tensor own = at::cat({k, v, at::zeros_like(k), at::zeros_like(v)}, 1);
    const at::Tensor visited =
        around(*c, *g, own, *t, site + ":backward", [&](const RingStep& step, const at::Tensor& moving) {
          if (step.empty) return at::Tensor();
          const Tensors d_part =
              kernels.part_backward(some(scaled, step.all_queries, step.queries), keys_of(step, moving, 0),
                                    keys_of(step, moving, 1), step.bias, some(whole, step),
                                    some(dout, step.all_queries, step.queries));
          if (step.all_queries)
            dq.add_(d_part[0]);
          else
            dq.index_add_(2, step.queries, d_part[0]);
          const at::Tensor add = at::cat({by_token(d_part[1]), by_token(d_part[2])}, 1);
          at::Tensor out = moving.clone();
          at::Tensor sums = out.slice(1, 2 * width);
          if (step.all_keys)
            sums.add_(add);
          else
            sums.index_add_(0, step.keys, add);
          return out;
        });
    // The gradients go home; their owner has the keys and values.
    const at::Tensor home = hop(*c, *g, visited.slice(1, 2 * width), t->sizes[t->rank], site + ":backward");
    return Tensors{by_token(dq.mul_(scale)), home.slice(1, 0, width).contiguous(),
                   home.slice(1, width).contiguous()};
  })[0];
}

at::Tensor gathered_attention(Collectives& collectives, const Group& ring, const at::Tensor& q,
                              const at::Tensor& k, const at::Tensor& v,
                              const std::vector<std::int64_t>& sizes, const at::Tensor& bias,
                              std::int64_t head_dim, const Site& site) {
  const std::int64_t d = head_dim, kv_heads = k.size(1) / d, width = kv_heads * d;
  const double scale = 1.0 / std::sqrt(static_cast<double>(d));
  const at::Tensor kv = gather_from(collectives, ring, at::cat({k, v}, 1), sizes, 0, site);
  const std::int64_t n = q.size(0);
  at::Tensor qh, kh, vh, p, y;
  {
    const BelowAutograd guard;
    qh = by_head(q, kv_heads, d).mul_(scale);
    kh = by_head(kv.slice(1, 0, width), kv_heads, d), vh = by_head(kv.slice(1, width), kv_heads, d);
    if (n == 0) {
      y = at::zeros_like(q);
    } else {
      at::Tensor scores = at::matmul(qh, kh.transpose(2, 3));
      if (bias.defined()) scores.add_(bias);
      p = at::softmax(scores, 3);
      y = by_token(at::matmul(p, vh));
    }
  }
  return attach("gathered_attention", {q, kv}, {y}, [=](const Tensors& grads) {
    if (n == 0) return Tensors{at::zeros_like(q), at::zeros_like(kv)};
    const at::Tensor dout = by_head(grads[0].contiguous(), kv_heads, d);
    const at::Tensor ds =
        at::_softmax_backward_data(at::matmul(dout, vh.transpose(2, 3)), p, 3, p.scalar_type());
    const at::Tensor dk = by_token(at::matmul(ds.transpose(2, 3), qh).sum(1, true));
    const at::Tensor dv = by_token(at::matmul(p.transpose(2, 3), dout).sum(1, true));
    return Tensors{by_token(at::matmul(ds, kh).mul_(scale)), at::cat({dk, dv}, 1)};
  })[0];
}

}  // namespace meshparity::impl

#include "impl/parallel/context_ring.h"

#include <cmath>
#include <limits>
#include <unordered_map>

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

PartialAttention some(const PartialAttention& x, const RingBlock& block) {
  return {some(x.o, block.all_queries, block.queries), some(x.lse, block.all_queries, block.queries)};
}

// Places in `list` by document, in the order in which documents first appear.
struct DocumentPlaces {
  std::vector<std::int64_t> documents;
  std::unordered_map<std::int64_t, std::vector<std::int64_t>> places;

  DocumentPlaces(const Tokens& list, const std::vector<std::int64_t>& document_of) {
    for (std::size_t i = 0; i < list.size(); ++i) {
      auto& of_document = places[document_of[list[i]]];
      if (of_document.empty()) documents.push_back(document_of[list[i]]);
      of_document.push_back(static_cast<std::int64_t>(i));
    }
  }
};

Tokens chosen(const Tokens& list, const std::vector<std::int64_t>& places) {
  Tokens tokens;
  for (const std::int64_t place : places) tokens.push_back(list[place]);
  return tokens;
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

std::vector<RingBlock> causal_blocks(const Tokens& queries, const Tokens& keys,
                                     const std::vector<std::int64_t>& document_of,
                                     at::TensorOptions options) {
  constexpr std::size_t kFewPairs = 1 << 20, kBlockQueries = 512;
  if (queries.empty() || keys.empty()) return {};
  RingBlock all;
  if (queries.size() * keys.size() <= kFewPairs) {
    all.bias = causal_bias(queries, keys, document_of, options);
    return {all};
  }
  const DocumentPlaces of_queries(queries, document_of), of_keys(keys, document_of);
  std::vector<RingBlock> blocks;
  std::vector<std::int64_t> query_places, key_places;
  const auto close = [&] {
    if (!query_places.empty() && !key_places.empty()) {
      RingBlock block;
      block.all_queries = block.all_keys = false;
      block.queries = index_tensor(query_places, options.device());
      block.keys = index_tensor(key_places, options.device());
      block.bias = causal_bias(chosen(queries, query_places), chosen(keys, key_places), document_of, options);
      blocks.push_back(std::move(block));
    }
    query_places.clear(), key_places.clear();
  };
  for (const std::int64_t document : of_queries.documents) {
    const auto& own = of_queries.places.at(document);
    query_places.insert(query_places.end(), own.begin(), own.end());
    if (const auto found = of_keys.places.find(document); found != of_keys.places.end())
      key_places.insert(key_places.end(), found->second.begin(), found->second.end());
    if (query_places.size() >= kBlockQueries) close();
  }
  close();
  return blocks;
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
  // The places of a ring index's front chunks, or of its back chunks.
  const auto places = [&](int r, bool front) {
    const std::vector<bool> is_front = front_of(stream, order, size, r);
    std::vector<std::int64_t> picked;
    for (std::size_t j = 0; j < is_front.size(); ++j)
      if (is_front[j] == front) picked.push_back(static_cast<std::int64_t>(j));
    return picked;
  };
  // From places among the picked to places in the whole list.
  const auto place = [&](const std::vector<std::int64_t>& picked, bool& all, at::Tensor& chosen_places) {
    const at::Tensor whole = index_tensor(picked, options.device());
    chosen_places = all ? whole : whole.index_select(0, chosen_places);
    all = false;
  };
  for (int i = 0; i < size.ring; ++i) {
    RingStep step;
    step.source = (ring_index - i + size.ring) % size.ring;
    const Tokens& theirs = lists[step.source];
    if (step.source == ring_index) {
      step.blocks = causal_blocks(own, theirs, document_of, options);
    } else if (step.source < ring_index) {
      const auto picked = places(step.source, true);
      step.blocks = causal_blocks(own, chosen(theirs, picked), document_of, options);
      for (RingBlock& block : step.blocks) place(picked, block.all_keys, block.keys);
    } else {
      const auto picked = places(ring_index, false);
      step.blocks = causal_blocks(chosen(own, picked), theirs, document_of, options);
      for (RingBlock& block : step.blocks) place(picked, block.all_queries, block.queries);
    }
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
  // Columns [part] of what travels, by head.
  const auto columns = [=](const at::Tensor& moving, std::int64_t part) {
    return by_head(moving.slice(1, part * width, (part + 1) * width), kv_heads, d);
  };
  {
    const BelowAutograd guard;
    scaled = by_head(q, kv_heads, d).mul_(scale);
    around(collectives, ring, at::cat({k, v}, 1), tables, site,
           [&](const RingStep& step, const at::Tensor& kv) {
             if (step.blocks.empty()) return at::Tensor();
             const at::Tensor kh = columns(kv, 0), vh = columns(kv, 1);
             for (const RingBlock& block : step.blocks) {
               const PartialAttention part = kernels.part(some(scaled, block.all_queries, block.queries),
                                                          some(kh, block.all_keys, block.keys),
                                                          some(vh, block.all_keys, block.keys), block.bias);
               // Own keys come first, and every query sees itself.
               const PartialAttention merged =
                   step.source == tables.rank ? part : kernels.merge(some(whole, block), part);
               if (block.all_queries) {
                 whole = merged;
                 continue;
               }
               if (!whole.o.defined())
                 whole = {at::zeros_like(scaled), scaled.new_zeros(scaled.sizes().slice(0, 3))};
               whole.o.index_copy_(2, block.queries, merged.o);
               whole.lse.index_copy_(2, block.queries, merged.lse);
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
          if (step.blocks.empty()) return at::Tensor();
          const at::Tensor kh = columns(moving, 0), vh = columns(moving, 1);
          at::Tensor out = moving.clone();
          at::Tensor sums = out.slice(1, 2 * width);
          for (const RingBlock& block : step.blocks) {
            const Tensors d_part = kernels.part_backward(
                some(scaled, block.all_queries, block.queries), some(kh, block.all_keys, block.keys),
                some(vh, block.all_keys, block.keys), block.bias, some(whole, block),
                some(dout, block.all_queries, block.queries));
            if (block.all_queries)
              dq.add_(d_part[0]);
            else
              dq.index_add_(2, block.queries, d_part[0]);
            const at::Tensor add = at::cat({by_token(d_part[1]), by_token(d_part[2])}, 1);
            if (block.all_keys)
              sums.add_(add);
            else
              sums.index_add_(0, block.keys, add);
          }
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
                              const std::vector<std::int64_t>& sizes, const std::vector<RingBlock>& blocks,
                              std::int64_t head_dim, const Site& site) {
  const std::int64_t d = head_dim, kv_heads = k.size(1) / d, width = kv_heads * d;
  const double scale = 1.0 / std::sqrt(static_cast<double>(d));
  const at::Tensor kv = gather_from(collectives, ring, at::cat({k, v}, 1), sizes, 0, site);
  at::Tensor qh, kh, vh, y;
  Tensors probabilities;  // of every block
  {
    const BelowAutograd guard;
    qh = by_head(q, kv_heads, d).mul_(scale);
    kh = by_head(kv.slice(1, 0, width), kv_heads, d), vh = by_head(kv.slice(1, width), kv_heads, d);
    at::Tensor out = at::zeros_like(qh);
    for (const RingBlock& block : blocks) {
      at::Tensor scores = at::matmul(some(qh, block.all_queries, block.queries),
                                     some(kh, block.all_keys, block.keys).transpose(2, 3));
      if (block.bias.defined()) scores.add_(block.bias);
      probabilities.push_back(at::softmax(scores, 3));
      const at::Tensor part = at::matmul(probabilities.back(), some(vh, block.all_keys, block.keys));
      if (block.all_queries)
        out = part;
      else
        out.index_copy_(2, block.queries, part);
    }
    y = by_token(out);
  }
  const std::vector<RingBlock>* const parts = &blocks;
  return attach("gathered_attention", {q, kv}, {y}, [=](const Tensors& grads) {
    const at::Tensor dout = by_head(grads[0].contiguous(), kv_heads, d);
    at::Tensor dq = at::zeros_like(qh), dk = at::zeros_like(kh), dv = at::zeros_like(vh);
    for (std::size_t i = 0; i < parts->size(); ++i) {
      const RingBlock& block = (*parts)[i];
      const at::Tensor& p = probabilities[i];
      const at::Tensor db = some(dout, block.all_queries, block.queries),
                       kb = some(kh, block.all_keys, block.keys), vb = some(vh, block.all_keys, block.keys);
      const at::Tensor ds =
          at::_softmax_backward_data(at::matmul(db, vb.transpose(2, 3)), p, 3, p.scalar_type());
      const auto add = [](at::Tensor& sum, bool all, const at::Tensor& places, const at::Tensor& part) {
        if (all)
          sum.add_(part);
        else
          sum.index_add_(2, places, part);
      };
      add(dq, block.all_queries, block.queries, at::matmul(ds, kb));
      // Summed over the query heads of a key-value head.
      add(dk, block.all_keys, block.keys,
          at::matmul(ds.transpose(2, 3), some(qh, block.all_queries, block.queries)).sum(1, true));
      add(dv, block.all_keys, block.keys, at::matmul(p.transpose(2, 3), db).sum(1, true));
    }
    return Tensors{by_token(dq.mul_(scale)), at::cat({by_token(dk), by_token(dv)}, 1)};
  })[0];
}

}  // namespace meshparity::impl

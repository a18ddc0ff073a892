#include "impl/parallel/context_state.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "harness/types/error.h"
#include "impl/parallel/index_tensor.h"

namespace meshparity::impl {
namespace {

// The part of an ascending list that lies in [begin, end), as places in the list.
std::pair<std::int64_t, std::int64_t> stretch(const Tokens& list, std::int64_t begin, std::int64_t end) {
  const auto first = std::lower_bound(list.begin(), list.end(), begin);
  const auto last = std::lower_bound(list.begin(), list.end(), end);
  return {first - list.begin(), last - list.begin()};
}

void build_halo(const ContextStream& stream, const std::vector<Tokens>& lists, int rank,
                const std::vector<std::int64_t>& document_of, std::int64_t conv_width, at::Device device,
                StateTables& out) {
  const std::int64_t reach = conv_width - 1;
  std::unordered_map<std::int64_t, std::int64_t> sent;  // token -> row of all ranks' sent rows
  std::int64_t next = 0;
  for (std::size_t r = 0; r < lists.size(); ++r) {
    std::vector<std::int64_t> tail;
    for (std::int64_t row = 0; row < out.rows; ++row) {
      const auto [begin, end] = stretch(lists[r], stream.rows[row], stream.rows[row + 1]);
      for (std::int64_t i = std::max(begin, end - reach); i < end; ++i) {
        tail.push_back(i);
        sent[lists[r][i]] = next++;
      }
    }
    out.tail_sizes.push_back(static_cast<std::int64_t>(tail.size()));
    if (static_cast<int>(r) == rank) out.tail = index_tensor(tail, device);
  }
  const Tokens& own = lists[rank];
  std::vector<std::int64_t> picks, own_places;
  for (std::int64_t row = 0; row < out.rows; ++row) {
    const auto [begin, end] = stretch(own, stream.rows[row], stream.rows[row + 1]);
    if (begin == end) continue;
    const std::int64_t first = own[begin], document = document_of[first];
    std::int64_t from = first;
    while (from > stream.rows[row] && first - from < reach && document_of[from - 1] == document) --from;
    for (std::int64_t t = from; t < first; ++t) {
      const auto found = sent.find(t);
      if (found == sent.end())
        throw RunError("context: token " + std::to_string(t) + " before a stretch is sent by no rank");
      picks.push_back(found->second);
      out.halo_documents.push_back(document);
    }
    for (std::int64_t i = begin; i < end; ++i) {
      own_places.push_back(static_cast<std::int64_t>(picks.size()));
      picks.push_back(next + i);
      out.halo_documents.push_back(document_of[own[i]]);
    }
  }
  out.with_halo = index_tensor(picks, device);
  out.own_after_halo = index_tensor(own_places, device);
}

void build_states(const ContextStream& stream, const std::vector<Tokens>& lists, int rank,
                  const std::vector<std::int64_t>& document_of, std::int64_t key_dim, at::Device device,
                  StateTables& out) {
  const Tokens& own = lists[rank];
  const std::int64_t n = static_cast<std::int64_t>(own.size());
  const auto same = [&](std::int64_t row, std::int64_t a, std::int64_t b) {
    return a >= stream.rows[row] && b < stream.rows[row + 1] && document_of[a] == document_of[b];
  };
  for (std::size_t r = 0; r < lists.size(); ++r)
    for (std::int64_t row = 0; row < out.rows; ++row) {
      const auto [begin, end] = stretch(lists[r], stream.rows[row], stream.rows[row + 1]);
      if (begin < end) out.crossing = out.crossing || same(row, lists[r][begin] - 1, lists[r][begin]);
    }
  if (!out.crossing) return;
  std::vector<std::int64_t> picks, own_places, maps;
  std::vector<std::vector<std::int64_t>> read_out(out.rows);  // places of the read-out tokens
  enum class Map { zero, identity, read };
  std::vector<Map> kinds;
  for (std::int64_t row = 0; row < out.rows; ++row) {
    const auto [begin, end] = stretch(own, stream.rows[row], stream.rows[row + 1]);
    if (begin == end) {
      kinds.push_back(Map::identity);
      continue;
    }
    if (same(row, own[begin] - 1, own[begin])) {
      std::int64_t last = begin;
      while (last < end && document_of[own[last]] == document_of[own[begin]]) ++last;
      out.continued.push_back({row, begin, last});
      for (std::int64_t k = 0; k < key_dim; ++k) {
        picks.push_back(n + k);
        out.extended_documents.push_back(document_of[own[begin]]);
      }
    }
    for (std::int64_t i = begin; i < end; ++i) {
      own_places.push_back(static_cast<std::int64_t>(picks.size()));
      picks.push_back(i);
      out.extended_documents.push_back(document_of[own[i]]);
    }
    // What leaves the stretch matters only if its last document goes on.
    const bool goes_on = same(row, own[end - 1], own[end - 1] + 1);
    kinds.push_back(goes_on ? Map::read : Map::zero);
    if (!goes_on) continue;
    for (std::int64_t k = 0; k < key_dim; ++k) {
      read_out[row].push_back(static_cast<std::int64_t>(picks.size()));
      picks.push_back(n + key_dim + k);
      out.extended_documents.push_back(document_of[own[end - 1]]);
    }
  }
  const std::int64_t total = static_cast<std::int64_t>(picks.size());
  for (std::int64_t row = 0; row < out.rows; ++row)
    for (std::int64_t k = 0; k < key_dim; ++k)
      maps.push_back(kinds[row] == Map::read   ? read_out[row][k]
                     : kinds[row] == Map::zero ? total
                                               : total + 1 + k);
  out.extended = index_tensor(picks, device);
  out.own_in_extended = index_tensor(own_places, device);
  out.map_rows = index_tensor(maps, device);
}

// [K, heads * width] rows: row i holds `value` in column `first + i` of every head.
at::Tensor unit_rows(std::int64_t key_dim, std::int64_t heads, std::int64_t width, std::int64_t first,
                     double value, const at::TensorOptions& options) {
  at::Tensor rows = at::zeros({key_dim, heads, width}, options);
  rows.slice(2, first, first + key_dim).copy_(at::eye(key_dim, options).mul_(value).unsqueeze(1));
  return rows.view({key_dim, heads * width});
}

}  // namespace

StateTables make_state_tables(const ContextStream& stream, const std::vector<Tokens>& lists, int rank,
                              const std::vector<std::int64_t>& document_of, std::int64_t conv_width,
                              std::int64_t key_dim, at::Device device) {
  StateTables tables;
  tables.rows = static_cast<std::int64_t>(stream.rows.size()) - 1;
  build_halo(stream, lists, rank, document_of, conv_width, device, tables);
  build_states(stream, lists, rank, document_of, key_dim, device, tables);
  return tables;
}

at::Tensor with_halo(Collectives& collectives, const Group& group, const at::Tensor& u,
                     const StateTables& tables, const Site& site) {
  const at::Tensor tails =
      gather_from(collectives, group, distinct_rows(u, tables.tail), tables.tail_sizes, 0, site);
  return distinct_rows(at::cat({tails, u}), tables.with_halo);
}

DeltaInputs extend_inputs(const DeltaInputs& own, const StateTables& tables, std::int64_t key_dim) {
  const at::TensorOptions options = own.v.options().requires_grad(false);
  const std::int64_t heads = own.g.size(1), value_dim = own.v.size(1) / heads, n = own.v.size(0);
  const std::int64_t key_heads = own.qk.size(1) / (2 * key_dim), width = key_heads * key_dim;
  Tensors all;
  {
    const BelowAutograd guard;
    const auto extend = [&](const at::Tensor& rows, const at::Tensor& identity, const at::Tensor& read_out) {
      return at::cat({rows, identity, read_out}).index_select(0, tables.extended);
    };
    const at::Tensor none = at::zeros({key_dim, width}, options);
    const at::Tensor writes = at::cat({none, unit_rows(key_dim, key_heads, key_dim, 0, 1, options)}, 1);
    // The rule scales queries by K^(-1/2).
    const double root = std::sqrt(static_cast<double>(key_dim));
    const at::Tensor reads = at::cat({unit_rows(key_dim, key_heads, key_dim, 0, root, options), none}, 1);
    const at::Tensor no_heads = at::zeros({key_dim, heads}, options),
                     ones = at::ones({key_dim, heads}, options);
    const at::Tensor wide =
        at::cat({own.v.view({n, heads, value_dim}), at::zeros({n, heads, key_dim}, options)}, 2)
            .view({n, heads * (value_dim + key_dim)});
    all = {extend(own.qk, writes, reads),
           extend(wide, unit_rows(key_dim, heads, value_dim + key_dim, value_dim, 1, options),
                  at::zeros({key_dim, wide.size(1)}, options)),
           extend(own.g, no_heads, no_heads), extend(own.beta, ones, no_heads)};
  }
  // Every own token stands there once, and nothing else has a gradient.
  all = attach("extend_inputs", {own.qk, own.v, own.g, own.beta}, std::move(all),
               [=, place = tables.own_in_extended](const Tensors& grads) {
                 Tensors back;
                 for (const at::Tensor& grad : grads) back.push_back(grad.index_select(0, place));
                 back[1] = back[1]
                               .view({n, heads, value_dim + key_dim})
                               .slice(2, 0, value_dim)
                               .reshape({n, heads * value_dim});
                 return back;
               });
  return {all[0], all[1], all[2], all[3]};
}

at::Tensor pass_states(Collectives& collectives, const Group& group, const at::Tensor& extended,
                       const StateTables& tables, std::int64_t heads, std::int64_t key_dim,
                       const Site& site) {
  const at::TensorOptions options = extended.options().requires_grad(false);
  const std::int64_t wide = extended.size(1) / heads, value_dim = wide - key_dim, rows = tables.rows;
  const int ranks = group.size(), me = group.rank();
  const std::int64_t total = extended.size(0), n = tables.own_in_extended.size(0);
  at::Tensor own_wide;           // [n, heads*(V+K)]
  at::Tensor maps, entering, o;  // [ranks, rows, heads, K, V+K], [rows, heads, K, V], [n, heads*V]
  const auto run_of = [](const at::Tensor& x, const StateTables::Run& run) {  // [heads, tokens, .]
    return x.slice(0, run.begin, run.end).transpose(0, 1);
  };
  {
    const BelowAutograd guard;
    own_wide = extended.index_select(0, tables.own_in_extended);
    const at::Tensor own = at::cat({extended, at::zeros({1, extended.size(1)}, options),
                                    unit_rows(key_dim, heads, wide, value_dim, 1, options)})
                               .index_select(0, tables.map_rows)
                               .view({rows, key_dim, heads, wide})
                               .transpose(1, 2)
                               .contiguous();
    maps = collectives
               .all_gather(group, own.view({rows, heads * key_dim * wide}),
                           std::vector<std::int64_t>(ranks, rows), 0, site)
               .view({ranks, rows, heads, key_dim, wide});
    entering = at::zeros({rows, heads, key_dim, value_dim}, options);
    for (int j = 0; j < me; ++j)
      entering = at::matmul(maps[j].slice(3, value_dim), entering).add_(maps[j].slice(3, 0, value_dim));
    const at::Tensor parts = own_wide.view({n, heads, wide});
    o = parts.slice(2, 0, value_dim).contiguous();
    for (const auto& run : tables.continued)
      run_of(o, run).add_(at::matmul(run_of(parts.slice(2, value_dim), run), entering[run.row]));
    o = o.view({n, heads * value_dim});
  }
  Collectives* const c = &collectives;
  const Group* const g = &group;
  const std::vector<StateTables::Run> runs = tables.continued;
  const at::Tensor own_place = tables.own_in_extended, map_place = tables.map_rows;
  return attach("pass_states", {extended}, {o}, [=](const Tensors& grads) {
    const at::Tensor dout = grads[0].view({n, heads, value_dim});
    const at::Tensor response = own_wide.view({n, heads, wide}).slice(2, value_dim);
    at::Tensor dwide = at::zeros({n, heads, wide}, options), dentering = at::zeros_like(entering);
    dwide.slice(2, 0, value_dim).copy_(dout);
    for (const auto& run : runs) {
      const at::Tensor dr = run_of(dout, run);
      run_of(dwide.slice(2, value_dim), run).copy_(at::matmul(dr, entering[run.row].transpose(1, 2)));
      dentering[run.row].add_(at::matmul(run_of(response, run).transpose(1, 2), dr));
    }
    // Gradient of the state leaving this rank: every later rank's entering gradient, carried back through
    // the maps between.
    const at::Tensor all = c->all_gather(*g, dentering.view({rows, heads * key_dim * value_dim}),
                                         std::vector<std::int64_t>(ranks, rows), 0, site + ":backward")
                               .view({ranks, rows, heads, key_dim, value_dim});
    at::Tensor leaving = at::zeros_like(entering);
    for (int j = ranks - 1; j > me; --j)
      leaving = at::matmul(maps[j].slice(3, value_dim).transpose(2, 3), leaving).add_(all[j]);
    const at::Tensor dmaps =
        at::cat({leaving, at::matmul(leaving, entering.transpose(2, 3))}, 3);  // [rows, heads, K, V+K]
    // Own and read-out tokens stand there once each; the constants behind them are cut off again.
    at::Tensor back = at::zeros({total + 1 + key_dim, heads * wide}, options);
    back.index_copy_(0, map_place, dmaps.transpose(1, 2).reshape({rows * key_dim, heads * wide}));
    back.index_copy_(0, own_place, dwide.view({n, heads * wide}));
    return Tensors{back.narrow(0, 0, total)};
  })[0];
}

}  // namespace meshparity::impl

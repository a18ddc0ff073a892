#include "impl/parallel/context_ulysses.h"

#include <numeric>
#include <unordered_map>

#include "harness/types/error.h"
#include "impl/parallel/index_tensor.h"

namespace meshparity::impl {
namespace {

std::vector<std::int64_t> equal(std::size_t ranks, std::int64_t count) {
  return std::vector<std::int64_t>(ranks, count);
}

// [all tokens, c], ranks' lists one after another, from [own tokens, c] for every rank, and the reverse.
at::Tensor to_joined(Collectives& c, const Group& g, const at::Tensor& rows, const TokenExchange& t,
                     const Site& site) {
  return c.all_to_all(g, rows, equal(t.sizes.size(), t.sizes[t.rank]), t.sizes, site)
      .index_select(0, t.place);
}
at::Tensor from_joined(Collectives& c, const Group& g, const at::Tensor& y, const TokenExchange& t,
                       const Site& site) {
  const at::Tensor rows = at::empty_like(y).index_copy_(0, t.place, y);
  return c.all_to_all(g, rows, t.sizes, equal(t.sizes.size(), t.sizes[t.rank]), site);
}

at::Tensor pick_columns(const at::Tensor& x, const std::vector<at::Tensor>& columns) {
  Tensors parts;
  for (const auto& list : columns) parts.push_back(x.index_select(1, list));
  return at::cat(parts);
}

}  // namespace

TokenExchange make_token_exchange(const std::vector<Tokens>& lists, const Tokens& joined, int rank,
                                  at::Device device) {
  TokenExchange exchange;
  exchange.rank = rank;
  std::unordered_map<std::int64_t, std::int64_t> row;
  std::int64_t next = 0;
  for (const auto& list : lists) {
    exchange.sizes.push_back(static_cast<std::int64_t>(list.size()));
    for (const std::int64_t token : list) row[token] = next++;
  }
  std::vector<std::int64_t> place;
  for (const std::int64_t token : joined) {
    const auto found = row.find(token);
    if (found == row.end()) throw RunError("context: token " + std::to_string(token) + " is on no rank");
    place.push_back(found->second);
  }
  if (static_cast<std::int64_t>(place.size()) != next)
    throw RunError("context: " + std::to_string(next) + " tokens are held, " + std::to_string(place.size()) +
                   " are joined");
  exchange.place = index_tensor(place, device);
  return exchange;
}

at::Tensor scatter_columns(Collectives& collectives, const Group& group, const at::Tensor& x,
                           const std::vector<at::Tensor>& columns, const TokenExchange& tokens,
                           const Site& site) {
  at::Tensor y;
  {
    const BelowAutograd guard;
    y = to_joined(collectives, group, pick_columns(x, columns), tokens, site);
  }
  Collectives* const c = &collectives;
  const Group* const g = &group;
  const std::int64_t width = x.size(1);
  return attach("scatter_columns", {x}, {y}, [c, g, columns, tokens, site, width](const Tensors& grads) {
    const at::Tensor back = from_joined(*c, *g, grads[0], tokens, site + ":backward");
    const std::int64_t n = tokens.sizes[tokens.rank];
    at::Tensor dx = at::zeros({n, width}, back.options());
    for (std::size_t u = 0; u < columns.size(); ++u)
      dx.index_add_(1, columns[u],
                    back.slice(0, static_cast<std::int64_t>(u) * n, static_cast<std::int64_t>(u + 1) * n));
    return Tensors{dx};
  })[0];
}

at::Tensor gather_columns(Collectives& collectives, const Group& group, const at::Tensor& y,
                          const TokenExchange& tokens, const Site& site) {
  const std::int64_t ranks = static_cast<std::int64_t>(tokens.sizes.size()), n = tokens.sizes[tokens.rank];
  const std::int64_t width = y.size(1);
  at::Tensor x;
  {
    const BelowAutograd guard;
    x = from_joined(collectives, group, y.contiguous(), tokens, site)
            .view({ranks, n, width})
            .transpose(0, 1)
            .reshape({n, ranks * width});
  }
  Collectives* const c = &collectives;
  const Group* const g = &group;
  return attach("gather_columns", {y}, {x}, [=](const Tensors& grads) {
    const at::Tensor rows = grads[0].view({n, ranks, width}).transpose(0, 1).reshape({ranks * n, width});
    return Tensors{to_joined(*c, *g, rows, tokens, site + ":backward")};
  })[0];
}

std::vector<std::int64_t> head_columns(std::int64_t heads, std::int64_t width, std::int64_t offset, int ranks,
                                       int index) {
  const std::int64_t count = heads >= ranks ? heads / ranks : 1;
  const std::int64_t first = heads >= ranks ? index * count : index * heads / ranks;
  std::vector<std::int64_t> columns(static_cast<std::size_t>(count * width));
  std::iota(columns.begin(), columns.end(), offset + first * width);
  return columns;
}

}  // namespace meshparity::impl

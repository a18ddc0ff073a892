#include "impl/parallel/context_order.h"

#include <algorithm>
#include <unordered_map>

#include "harness/types/cut.h"
#include "harness/types/error.h"

namespace meshparity::impl {
namespace {

void append(Tokens& list, std::int64_t begin, std::int64_t end) {
  for (std::int64_t t = begin; t < end; ++t) list.push_back(t);
}

// Chunks r and 2*ring-1-r of [begin, end).
void append_zigzag(Tokens& list, std::int64_t begin, std::int64_t end, int ring, int r) {
  for (const int chunk : {r, 2 * ring - 1 - r}) {
    const Range part = cut(end - begin, 2 * ring, chunk);
    append(list, begin + part.begin, begin + part.end);
  }
}

// One row's list of a ring index.
Tokens row_order(const ContextStream& stream, std::size_t row, ContextOrder order, ContextSize size, int r) {
  const std::int64_t begin = stream.rows[row], end = stream.rows[row + 1], n = end - begin;
  Tokens list;
  switch (order) {
    case ContextOrder::contiguous:
      append(list, begin + cut(n, size.ranks(), r * size.uly).begin,
             begin + cut(n, size.ranks(), (r + 1) * size.uly - 1).end);
      break;
    case ContextOrder::zigzag:
      append_zigzag(list, begin, end, size.ring, r);
      break;
    case ContextOrder::zigzag_document:
      for (std::size_t d = 0; d + 1 < stream.documents.size(); ++d)
        if (stream.documents[d] >= begin && stream.documents[d] < end)
          append_zigzag(list, stream.documents[d], stream.documents[d + 1], size.ring, r);
      break;
  }
  return list;
}

}  // namespace

ContextOrder context_order_of(const std::string& layout) {
  if (layout == "contiguous") return ContextOrder::contiguous;
  if (layout == "zigzag") return ContextOrder::zigzag;
  if (layout == "zigzag-document") return ContextOrder::zigzag_document;
  throw InputError("layout '" + layout + "' is unknown");
}

Tokens ring_order(const ContextStream& stream, ContextOrder order, ContextSize size, int ring_index) {
  Tokens all;
  for (std::size_t row = 0; row + 1 < stream.rows.size(); ++row) {
    const Tokens list = row_order(stream, row, order, size, ring_index);
    all.insert(all.end(), list.begin(), list.end());
  }
  return all;
}

Tokens rank_order(const ContextStream& stream, ContextOrder order, ContextSize size, int cp_index) {
  const int r = cp_index / size.uly, u = cp_index % size.uly;
  Tokens all;
  for (std::size_t row = 0; row + 1 < stream.rows.size(); ++row) {
    if (order == ContextOrder::contiguous) {
      // The row is cut once into ring * uly parts, not twice.
      const std::int64_t begin = stream.rows[row];
      const Range part = cut(stream.rows[row + 1] - begin, size.ranks(), cp_index);
      append(all, begin + part.begin, begin + part.end);
      continue;
    }
    const Tokens list = row_order(stream, row, order, size, r);
    const Range part = cut(static_cast<std::int64_t>(list.size()), size.uly, u);
    all.insert(all.end(), list.begin() + part.begin, list.begin() + part.end);
  }
  return all;
}

std::vector<Tokens> all_orders(const ContextStream& stream, ContextOrder order, ContextSize size) {
  std::vector<Tokens> lists;
  for (int c = 0; c < size.ranks(); ++c) lists.push_back(rank_order(stream, order, size, c));
  return lists;
}

Route make_route(const std::vector<Tokens>& from, const std::vector<Tokens>& to, int rank) {
  struct Place {
    std::size_t rank, index;
  };
  std::unordered_map<std::int64_t, Place> destination;
  for (std::size_t r = 0; r < to.size(); ++r)
    for (std::size_t i = 0; i < to[r].size(); ++i) destination[to[r][i]] = {r, i};
  const auto place_of = [&](std::int64_t token) {
    const auto found = destination.find(token);
    if (found == destination.end())
      throw RunError("relayout: token " + std::to_string(token) + " has no destination");
    return found->second;
  };

  Route route;
  route.send.assign(to.size(), 0), route.recv.assign(from.size(), 0);
  // Out: by destination rank, then by place there; both ends can compute that order.
  const Tokens& mine = from[rank];
  route.pick.resize(mine.size());
  for (std::size_t i = 0; i < mine.size(); ++i) {
    route.pick[i] = static_cast<std::int64_t>(i);
    ++route.send[place_of(mine[i]).rank];
  }
  std::sort(route.pick.begin(), route.pick.end(), [&](std::int64_t a, std::int64_t b) {
    const Place pa = place_of(mine[a]), pb = place_of(mine[b]);
    return pa.rank != pb.rank ? pa.rank < pb.rank : pa.index < pb.index;
  });
  // In: by source rank, and from one source in the order of the places here.
  std::unordered_map<std::int64_t, std::size_t> source;
  for (std::size_t r = 0; r < from.size(); ++r)
    for (const std::int64_t token : from[r]) source[token] = r;
  const Tokens& wanted = to[rank];
  std::vector<std::size_t> came(wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const auto found = source.find(wanted[i]);
    if (found == source.end())
      throw RunError("relayout: token " + std::to_string(wanted[i]) + " comes from nowhere");
    came[i] = found->second;
    ++route.recv[came[i]];
  }
  std::vector<std::int64_t> next(from.size(), 0);
  for (std::size_t r = 1; r < from.size(); ++r) next[r] = next[r - 1] + route.recv[r - 1];
  for (std::size_t i = 0; i < wanted.size(); ++i) route.place.push_back(next[came[i]]++);
  return route;
}

}  // namespace meshparity::impl

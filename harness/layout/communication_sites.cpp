#include "harness/layout/communication_sites.h"

#include <algorithm>

#include "harness/layout/padded_rows.h"
#include "harness/layout/token_order.h"
#include "harness/types/cut.h"

namespace meshparity::layout {
namespace {

using Lists = std::vector<std::vector<std::int64_t>>;

void add_sizes(std::vector<std::int64_t>& counts, const Lists& lists) {
  for (std::size_t c = 0; c < lists.size(); ++c) counts[c] += static_cast<std::int64_t>(lists[c].size());
}

void add_common(std::vector<std::int64_t>& counts, Lists a, Lists b) {
  for (std::size_t c = 0; c < a.size(); ++c) {
    std::sort(a[c].begin(), a[c].end()), std::sort(b[c].begin(), b[c].end());
    std::vector<std::int64_t> both;
    std::set_intersection(a[c].begin(), a[c].end(), b[c].begin(), b[c].end(), std::back_inserter(both));
    counts[c] += static_cast<std::int64_t>(both.size());
  }
}

// Adds one row's stretches, one per rank of the group that passes states: what each lends to the convolutions
// of later ranks, and whether a document runs over one of their edges.
void add_stretches(TokenCounts& counts, const std::vector<std::int64_t>& sizes,
                   const std::vector<Range>& documents, std::int64_t reach) {
  std::int64_t begin = documents.empty() ? 0 : documents.front().begin;
  for (std::size_t g = 0; g < sizes.size(); ++g) {
    counts.tails[g] += std::min(reach, sizes[g]);
    for (const Range& document : documents)
      if (sizes[g] > 0 && document.begin < begin && begin < document.end) counts.crossing = true;
    begin += sizes[g];
  }
}

}  // namespace

void SiteLedger::add(const SiteTraffic& of_site, int rank, std::int64_t calls, std::int64_t elements) {
  const auto [found, fresh] = places_.emplace(of_site.site, lines_.size());
  if (fresh) {
    lines_.push_back(of_site);
    lines_.back().calls.assign(static_cast<std::size_t>(world_), 0);
    lines_.back().elements.assign(static_cast<std::size_t>(world_), 0);
  }
  SiteTraffic& line = lines_[found->second];
  line.calls[rank] += calls;
  line.elements[rank] += elements;
}

void RankSends::add(const GroupPlace& group, const std::string& site, const std::string& op,
                    Direction direction, std::int64_t calls, std::int64_t elements) const {
  if (group.size == 1 || (direction == Direction::backward && !backward_)) return;
  const std::string event = site + ":" + op + (direction == Direction::backward ? ":backward" : "");
  const std::int64_t times = times_ * (direction == Direction::forward ? forward_runs_ : 1);
  ledger_.add({event, group.axis, op, {}, {}}, rank_, calls * times, elements * times);
}

void RankSends::all_reduce(const GroupPlace& group, const std::string& site, std::int64_t n,
                           Direction direction, const char* op) const {
  const std::int64_t own = cut(n, group.size, group.index).size();
  add(group, site, op, direction, 1, n - own + own * (group.size - 1));
}

void RankSends::all_gather(const GroupPlace& group, const std::string& site, std::int64_t own,
                           Direction direction) const {
  add(group, site, "all_gather", direction, 1, own * (group.size - 1));
}

void RankSends::reduce_scatter(const GroupPlace& group, const std::string& site, std::int64_t n,
                               std::int64_t own, Direction direction) const {
  add(group, site, "reduce_scatter", direction, 1, n - own);
}

void RankSends::all_to_all(const GroupPlace& group, const std::string& site, std::int64_t leaving,
                           Direction direction, std::int64_t calls) const {
  add(group, site, "all_to_all", direction, calls, leaving);
}

void RankSends::send(const GroupPlace& group, const std::string& site, std::int64_t n,
                     Direction direction) const {
  add(group, site, "send", direction, 1, n);
}

bool attention_relayouts(const LayoutMap& map) {
  return map.mesh().ring > 1 && map.flags().layout == "contiguous" && map.flags().attn == "ring";
}

bool delta_rule_relayouts(const LayoutMap& map) {
  const bool by_states = map.flags().gdn == "state" || map.flags().gdn == "hybrid";
  return map.mesh().ring > 1 && map.flags().layout != "contiguous" && by_states;
}

TokenCounts count_tokens(const LayoutMap& map, std::int64_t micro_batch, int data_rank) {
  const Mesh& mesh = map.mesh();
  const Flags& flags = map.flags();
  const auto cp = static_cast<std::size_t>(mesh.cp());
  const bool hybrid = flags.gdn == "hybrid";
  TokenCounts counts;
  for (auto* list : {&counts.residual, &counts.attention, &counts.contiguous, &counts.residual_and_attention,
                     &counts.residual_and_contiguous})
    list->assign(cp, 0);
  counts.tails.assign(hybrid ? static_cast<std::size_t>(mesh.ring) : cp, 0);
  for (const PaddedRow& row : padded_rows(map.batch(), mesh, flags.pad, micro_batch, data_rank)) {
    const auto order = [&](const std::string& layout) {
      return context_order(row.documents, layout, mesh.ring, mesh.uly);
    };
    const Lists residual = order(flags.layout), contiguous = order("contiguous");
    const Lists attention = attention_relayouts(map) ? order("zigzag") : residual;
    ++counts.rows;
    add_sizes(counts.residual, residual);
    add_sizes(counts.attention, attention);
    add_sizes(counts.contiguous, contiguous);
    add_common(counts.residual_and_attention, residual, attention);
    add_common(counts.residual_and_contiguous, residual, contiguous);
    std::vector<std::int64_t> stretches(counts.tails.size(), 0);
    for (std::size_t c = 0; c < cp; ++c)
      stretches[hybrid ? c / mesh.uly : c] += static_cast<std::int64_t>(contiguous[c].size());
    add_stretches(counts, stretches, row.documents, map.config().linear_conv_kernel_dim - 1);
  }
  return counts;
}

RankPlace place_of(const LayoutMap& map, int rank) {
  const Mesh& mesh = map.mesh();
  const RankCoordinate at = coordinate_of(mesh, rank);
  return {map,
          rank,
          at,
          expert_coordinate_of(mesh, at),
          {"tp", mesh.tp, at.tp},
          {"fsdp", mesh.fsdp, at.fsdp},
          {"ring", mesh.ring, at.ring},
          {"uly", mesh.uly, at.uly},
          {"cp", mesh.cp(), at.ring * mesh.uly + at.uly},
          {"ep", mesh.ep, expert_coordinate_of(mesh, at).ep}};
}

}  // namespace meshparity::layout

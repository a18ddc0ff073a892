// ep and etp: rows that go to the ranks of their experts and come back. Which they are follows from the
// routes.

#include "harness/layout/communication_sites.h"
#include "harness/layout/padded_rows.h"
#include "harness/layout/token_order.h"
#include "harness/types/cut.h"
#include "harness/types/error.h"

namespace meshparity::layout {
namespace {

void require_routes(const LayoutMap& map, const ExpertRoutes* routes, int passes, std::int64_t tokens) {
  const ModelConfig& c = map.config();
  const std::string mesh = "mesh " + map.mesh().text() + ": ";
  if (!routes) throw InputError(mesh + "what goes to the experts depends on the routes, and none are given");
  bool fits = static_cast<int>(routes->size()) == passes;
  for (const auto& layers : *routes) {
    const auto further = static_cast<std::int64_t>(layers.size()) - c.num_hidden_layers;
    fits = fits && (further == 0 || further == c.mtp_num_hidden_layers) &&
           layers.size() == routes->front().size();
    for (const auto& experts : layers)
      fits = fits && static_cast<std::int64_t>(experts.size()) == tokens * c.num_experts_per_tok;
  }
  if (!fits)
    throw InputError(mesh + "the routes are not those of " + std::to_string(passes) + " passes over " +
                     std::to_string(tokens) + " tokens, padding included");
}

}  // namespace

ExpertTraffic::ExpertTraffic(const LayoutMap& map, const ExpertRoutes* routes, int passes, bool even)
    : map_(map), passes_(passes), even_(even) {
  if (map.mesh().ep == 1 || even) return;
  require_routes(map, routes, passes, padded_batch(map.batch(), map.mesh(), map.flags().pad).tokens());
  layers_ = static_cast<std::int64_t>(routes->front().size());
  rows_.resize(static_cast<std::size_t>(passes * layers_ * map.batch().micro_batches() * map.world()));
  count(*routes);
}

ExpertTraffic::Rows& ExpertTraffic::rows(int pass, std::int64_t layer, std::int64_t micro_batch, int rank) {
  const std::int64_t micro_batches = map_.batch().micro_batches();
  return rows_[static_cast<std::size_t>(
      ((pass * layers_ + layer) * micro_batches + micro_batch) * map_.world() + rank)];
}

std::vector<std::int64_t> ExpertTraffic::routed_tokens(int rank, std::int64_t micro_batch) const {
  const Mesh& mesh = map_.mesh();
  const Flags& flags = map_.flags();
  const RankCoordinate at = coordinate_of(mesh, rank);
  const Batch padded = padded_batch(map_.batch(), mesh, flags.pad);
  const std::int64_t stride = data_ranks(mesh);
  std::int64_t row = map_.batch().micro_batch_rows(micro_batch).begin + data_rank(mesh, rank);
  std::vector<std::int64_t> tokens;
  for (const PaddedRow& held :
       padded_rows(map_.batch(), mesh, flags.pad, micro_batch, data_rank(mesh, rank))) {
    const auto order = context_order(held.documents, flags.layout, mesh.ring, mesh.uly);
    for (const std::int64_t place : order[static_cast<std::size_t>(cp_index(mesh, at))])
      tokens.push_back(padded.row_tokens(row).begin + place);
    row += stride;
  }
  if (!mesh.expert_tokens_cut()) return tokens;
  // Whole experts: a tp rank takes its part of the stream to them.
  const Range part = cut(static_cast<std::int64_t>(tokens.size()), mesh.tp, at.tp);
  return {tokens.begin() + part.begin, tokens.begin() + part.end};
}

void ExpertTraffic::count(const ExpertRoutes& routes) {
  const Mesh& mesh = map_.mesh();
  const std::int64_t k = map_.config().num_experts_per_tok, share = map_.config().num_experts / mesh.ep;
  for (int rank = 0; rank < map_.world(); ++rank) {
    const RankCoordinate at = coordinate_of(mesh, rank);
    const ExpertCoordinate own = expert_coordinate_of(mesh, at);
    // The ranks of this one's ep group, by ep index.
    std::vector<int> group(static_cast<std::size_t>(mesh.ep));
    for (int other = 0; other < map_.world(); ++other) {
      const RankCoordinate c = coordinate_of(mesh, other);
      const ExpertCoordinate e = expert_coordinate_of(mesh, c);
      if (c.pp == at.pp && c.dp == at.dp && e.edp == own.edp && e.etp == own.etp) group[e.ep] = other;
    }
    for (std::int64_t m = 0; m < map_.batch().micro_batches(); ++m) {
      const std::vector<std::int64_t> tokens = routed_tokens(rank, m);
      for (int pass = 0; pass < passes_; ++pass)
        for (std::int64_t layer = 0; layer < layers_; ++layer)
          for (const std::int64_t token : tokens)
            for (std::int64_t slot = 0; slot < k; ++slot) {
              const std::int64_t expert = routes[pass][layer][token * k + slot];
              const int to = group[static_cast<std::size_t>(expert / share)];
              if (to == rank) continue;
              ++rows(pass, layer, m, rank).leaving;
              ++rows(pass, layer, m, to).arriving;
            }
    }
  }
}

ExpertTraffic::Rows ExpertTraffic::even_rows(const RankPlace& place, std::int64_t tokens) const {
  const Mesh& mesh = map_.mesh();
  if (mesh.expert_tokens_cut()) tokens = cut(tokens, mesh.tp, place.at.tp).size();
  const std::int64_t rows = tokens * map_.config().num_experts_per_tok;
  return {rows - rows / mesh.ep, rows - rows / mesh.ep};
}

void ExpertTraffic::block(const RankSends& passes, const RankSends& once, const RankPlace& place,
                          const std::string& site, std::int64_t layer, std::int64_t micro_batch,
                          std::int64_t tokens) const {
  const Mesh& mesh = map_.mesh();
  const std::string at = site + ".mlp", experts = at + ".experts";
  if (mesh.ep > 1 && !even_ && layer >= layers_)
    throw InputError("mesh " + mesh.text() +
                     ": what goes to the experts of multi-token prediction depends on " +
                     "its routes, and none are given");
  const std::int64_t hidden = map_.config().hidden_size;
  if (mesh.ep > 1) {
    const std::int64_t all = map_.config().num_experts;
    passes.all_to_all(place.ep, experts + ".counts", all - all / mesh.ep);
    for (int pass = 0; pass < passes_; ++pass) {
      const Rows n = even_ ? even_rows(place, tokens) : rows(pass, layer, micro_batch, place.rank);
      // Out with the rows for others, back with what was made of theirs; backward the other way round.
      once.all_to_all(place.ep, experts + ".dispatch", n.leaving * hidden);
      once.all_to_all(place.ep, experts + ".dispatch", n.arriving * hidden, Direction::backward);
      once.all_to_all(place.ep, experts + ".combine", n.arriving * hidden);
      once.all_to_all(place.ep, experts + ".combine", n.leaving * hidden, Direction::backward);
    }
  }
  if (mesh.expert_tokens_cut() && !map_.flags().sp) {
    const std::int64_t own = cut(tokens, place.tp.size, place.tp.index).size() * hidden;
    passes.all_gather(place.tp, experts + ".split", own, Direction::backward);
    passes.all_gather(place.tp, experts + ".join", own);
  }
  enter_block(passes, place, at, tokens);
  leave_block(passes, place, mesh.expert_tokens_cut() ? at + ".shared_expert" : experts, tokens);
}

}  // namespace meshparity::layout

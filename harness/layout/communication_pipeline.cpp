// pp: the residual stream from stage to stage, and its gradient back.
#include "harness/layout/communication_sites.h"
#include "harness/types/cut.h"

namespace meshparity::layout {
namespace {

std::string site_of(int stage, std::int64_t micro_batch) {
  return "stages." + std::to_string(stage) + ".micro_batch." + std::to_string(micro_batch);
}

}  // namespace

std::vector<StagePlace> stages_of(const LayoutMap& map, int pp) {
  const Mesh& mesh = map.mesh();
  const int all = mesh.pp * (mesh.pp > 1 && map.flags().schedule == "interleaved" ? 2 : 1);
  std::vector<StagePlace> stages;
  for (int v = pp; v < all; v += mesh.pp)
    stages.push_back({v, cut(map.config().num_hidden_layers, all, v), v == 0, v == all - 1});
  return stages;
}

namespace {

// The way from the stage `after` to the next, or back. From the last pp index to the first, where interleaved
// stages go on, messages have a way of their own.
GroupPlace way(const RankPlace& place, const std::string& name, int after) {
  const Mesh& mesh = place.map.mesh();
  return {(after + 1) % mesh.pp == 0 ? name + ".around" : name, mesh.pp, place.at.pp};
}

}  // namespace

void stage_sends(const RankSends& sends, const RankPlace& place, const StagePlace& stage,
                 std::int64_t micro_batch, std::int64_t tokens, std::int64_t streams) {
  const std::int64_t own = place.map.flags().sp ? cut(tokens, place.tp.size, place.tp.index).size() : tokens;
  const std::int64_t n = streams * own * place.map.config().hidden_size;
  if (!stage.last) sends.send(way(place, "pp", stage.number), site_of(stage.number, micro_batch), n);
  if (!stage.first)
    sends.send(way(place, "pp.backward", stage.number - 1), site_of(stage.number - 1, micro_batch), n,
               Direction::backward);
}

void router_sends(const RankSends& sends, const RankPlace& place, const StagePlace& stage,
                  std::int64_t micro_batch) {
  const std::int64_t experts = place.map.config().num_experts;
  const auto site = [&](int number) { return site_of(number, micro_batch) + ".routers"; };
  if (!stage.last) sends.send(way(place, "pp", stage.number), site(stage.number), 2 * experts + 1);
  if (!stage.first)
    sends.send(way(place, "pp.backward", stage.number - 1), site(stage.number - 1), experts,
               Direction::backward);
}

}  // namespace meshparity::layout

// dp, fsdp and everything that is summed once per pass: parameters and their gradients.
#include <algorithm>

#include "harness/layout/communication_sites.h"
#include "harness/layout/parameter_ranges.h"

namespace meshparity::layout {
namespace {

bool has_suffix(const std::string& name, const char* suffix) {
  const std::string end(suffix);
  return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

bool of_tower(const std::string& name) {
  return name.rfind("model.visual.", 0) == 0;
}

// What is gathered together: the embedding, each layer, the final norm with the head, the vision tower, and
// multi-token prediction.
std::string unit_of_parameter(const std::string& name) {
  if (of_tower(name)) return "visual";
  if (name.rfind("mtp.", 0) == 0) return "mtp";
  if (has_suffix(name, "embed_tokens.weight")) return "embed";
  const auto layer = name.find("layers.");
  return layer == std::string::npos ? "head" : name.substr(layer, name.find('.', layer + 7) - layer);
}

// Norms of the residual stream see the same tokens on every tp rank, but for sp.
bool of_residual_stream(const std::string& name) {
  return has_suffix(name, "input_layernorm.weight") || has_suffix(name, "post_attention_layernorm.weight") ||
         name == "model.norm.weight" || name == "mtp.norm.weight" || name == "mtp.fc.weight" ||
         name.rfind("mtp.pre_fc_norm", 0) == 0;
}

// Everything about a placement that decides its parts.
std::string cut_text(const ParameterPlacement& p) {
  std::string text = shape_text(p.shape) + " " + std::to_string(p.tp_dim) + " " + std::to_string(p.fsdp_dim);
  for (const Block& b : p.tp_blocks)
    text += " " + std::to_string(b.count) + "x" + std::to_string(b.width) + (b.replicate ? "r" : "");
  return text + (p.expert ? " expert" : "") + (p.tower ? " tower" : "");
}

// The ranks of tp that hold the same key-value heads as this one.
GroupPlace kv_group(const RankPlace& place) {
  const std::int64_t heads = place.map.config().num_key_value_heads, tp = place.tp.size;
  const auto head = [&](std::int64_t index) { return index * heads / tp; };
  GroupPlace group{"tp.kv", 0, 0};
  for (std::int64_t i = 0; i < tp; ++i) {
    if (head(i) != head(place.tp.index)) continue;
    if (i < place.tp.index) ++group.index;
    ++group.size;
  }
  return group;
}

// The ranks among which a unit lies: the own place with every fsdp index, and for experts all that hold a
// part of the same ones in this replica and stage.
std::vector<int> fsdp_members(const RankPlace& place) {
  std::vector<int> members;
  RankCoordinate at = place.at;
  for (at.fsdp = 0; at.fsdp < place.map.mesh().fsdp; ++at.fsdp)
    members.push_back(rank_of(place.map.mesh(), at));
  return members;
}
std::vector<int> edp_members(const RankPlace& place) {
  std::vector<int> members;
  const Mesh& mesh = place.map.mesh();
  // The ranks of one stage and one replica follow one another; etp is the fastest of the experts' axes.
  const int first = (place.at.pp * mesh.dp + place.at.dp) * mesh.expert_group();
  for (int edp = 0; edp < mesh.edp(); ++edp)
    members.push_back(first + (edp * mesh.ep + place.expert_at.ep) * mesh.expert_tp() + place.expert_at.etp);
  return members;
}

}  // namespace

ParameterTraffic::ParameterTraffic(const LayoutMap& map) : map_(map) {
  const Mesh& mesh = map.mesh();
  std::map<std::string, std::shared_ptr<const std::vector<std::int64_t>>> known;  // layers repeat their cuts
  for (const ParameterPlacement& p : map.placements()) {
    const bool kv_head = !p.tp_blocks.empty() && p.tp_blocks[0].replicate;
    // On a pipeline only the ranks of the layer's stage hold anything.
    auto& shards = known[cut_text(p) + (mesh.pp > 1 ? " " + unit_of_parameter(p.name) : "")];
    if (!shards) {
      std::vector<char> holds;
      for (int pp = 0; pp < mesh.pp; ++pp) holds.push_back(map.on_stage(p.name, pp));
      std::vector<std::int64_t> counts;
      for (int rank = 0; rank < map.world(); ++rank) {
        const RankCoordinate at = coordinate_of(mesh, rank);
        counts.push_back(holds[at.pp] ? local_elements(p, cut_of(p, mesh, map.flags(), at), false) : 0);
      }
      shards = std::make_shared<const std::vector<std::int64_t>>(std::move(counts));
    }
    units_[unit_of_parameter(p.name)].push_back(parameters_.size());
    parameters_.push_back(
        {p.name, unit_of_parameter(p.name), p.expert, p.tp_dim < 0, kv_head, of_tower(p.name), shards});
  }
}

bool ParameterTraffic::held(const Parameter& parameter, const RankPlace& place) const {
  return map_.on_stage(parameter.name, place.at.pp);
}

// Experts are sharded over edp, which takes in what ep and etp leave of the inner axes; where those are not
// the ranks of fsdp they are a unit of their own.
bool ParameterTraffic::experts_apart() const {
  return map_.mesh().fsdp > 1 && map_.mesh().edp() != map_.mesh().fsdp;
}

void ParameterTraffic::gather_unit(const RankSends& sends, const RankPlace& place,
                                   const std::string& unit) const {
  const Mesh& mesh = map_.mesh();
  if (mesh.fsdp == 1) return;
  for (const bool experts : {false, true}) {
    const GroupPlace edp{"edp", mesh.edp(), place.expert_at.edp};
    const GroupPlace& group = experts ? edp : place.fsdp;
    const std::vector<int> members = experts ? edp_members(place) : fsdp_members(place);
    std::int64_t own = 0, all = 0, parameters = 0;
    const auto found = units_.find(unit);
    for (const std::size_t i : found == units_.end() ? std::vector<std::size_t>() : found->second) {
      const Parameter& p = parameters_[i];
      if ((p.expert && experts_apart()) != experts) continue;
      ++parameters;
      own += (*p.shards)[place.rank];
      for (const int rank : members) all += (*p.shards)[rank];
    }
    if (parameters == 0) continue;
    const std::string site = unit + (experts ? ".experts" : "") + ".parameters";
    sends.all_gather(group, site, own);
    sends.reduce_scatter(group, site, all, own, Direction::backward);
  }
}

void ParameterTraffic::reduce_gradients(const RankSends& sends, const RankPlace& place) const {
  const Mesh& mesh = map_.mesh();
  const bool replicated_kv = mesh.tp > map_.config().num_key_value_heads;
  // Elements of this rank's shards of the parameters that `chosen` picks; no call where it picks none.
  const auto sum_over = [&](const GroupPlace& group, const std::string& site, auto&& chosen) {
    std::int64_t n = 0, parameters = 0;
    for (const Parameter& p : parameters_)
      if (held(p, place) && chosen(p)) ++parameters, n += (*p.shards)[place.rank];
    if (parameters > 0) sends.all_reduce(group, site, n);
  };
  // Replicas over tp that saw other tokens (sp), other heads, or partial sums (router, shared gate).
  sum_over(place.tp, "gradients.tp", [&](const Parameter& p) {
    // The tower's patches are the same on all ranks; whole, each has images of its own.
    if (p.tower) return p.replicated && map_.flags().vision == "images";
    return p.replicated && (map_.flags().sp || !of_residual_stream(p.name));
  });
  sum_over(kv_group(place), "gradients.kv_replicas",
           [&](const Parameter& p) { return p.kv_head && replicated_kv; });
  // Replicas over dp, ring and uly saw other tokens. Experts that are sharded have replicas on dp alone,
  // whole ones wherever neither ep nor etp tells ranks apart: a sum of its own where those are other ranks.
  const GroupPlace replicas{"dp.cp", mesh.dp * mesh.cp(), place.at.dp * mesh.cp() + place.cp.index};
  GroupPlace expert_replicas{"dp", mesh.dp, place.at.dp};
  if (mesh.fsdp == 1)
    expert_replicas = {"dp.edp", mesh.dp * mesh.edp(), place.at.dp * mesh.edp() + place.expert_at.edp};
  const bool own_sum = mesh.fsdp > 1 ? mesh.cp() > 1 : mesh.ep * mesh.expert_tp() != mesh.tp;
  sum_over(replicas, "gradients.dp", [&](const Parameter& p) { return !(p.expert && own_sum); });
  if (own_sum) sum_over(expert_replicas, "gradients.experts.dp", [](const Parameter& p) { return p.expert; });
  // First and last stage use a tied embedding each in their way.
  if (map_.config().tie_word_embeddings && mesh.pp > 1)
    sum_over({"pp.embedding", 2, place.at.pp == 0 ? 0 : 1}, "gradients.embedding",
             [](const Parameter& p) { return p.unit == "embed"; });
}

}  // namespace meshparity::layout

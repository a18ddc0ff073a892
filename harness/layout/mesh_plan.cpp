#include "harness/layout/mesh_plan.h"

#include "harness/layout/stages.h"

namespace meshparity::layout {
namespace {

struct Unit {
  std::string kind, instance;
};

// What is gathered together. Layers of one kind are alike.
Unit unit_of(const ModelConfig& config, const std::string& name) {
  if (name.rfind("model.visual.", 0) == 0) return {"visual", "visual"};
  if (name.rfind("mtp.", 0) == 0) return {"mtp", "mtp"};
  if (const auto at = name.find("layers."); at != std::string::npos) {
    const std::size_t layer = std::stoull(name.substr(at + 7));
    return {config.full_attention[layer] ? "attention" : "delta rule", "layers." + std::to_string(layer)};
  }
  const char* rest = name.find("embed_tokens") != std::string::npos ? "embed" : "head";
  return {rest, rest};
}

std::string key_in_unit(const ParameterPlacement& p, const std::string& unit) {
  std::string key = unit + shape_text(p.shape) + " " + std::to_string(p.tp_dim) + " " +
                    std::to_string(p.fsdp_dim) + (p.expert ? " expert" : "") + (p.tower ? " tower" : "");
  for (const Block& b : p.tp_blocks)
    key += " " + std::to_string(b.count) + "x" + std::to_string(b.width) + (b.replicate ? "r" : "");
  return key;
}

}  // namespace

MeshPlanner::MeshPlanner(const ModelConfig& config, const PlacementTable& placements, const PlanBatch& batch,
                         const PlanDtypes& dtypes)
    : config_(config), placements_(placements), batch_(batch), dtypes_(dtypes) {
  std::map<std::string, std::size_t> known, kinds;
  for (std::size_t i = 0; i < placements.size(); ++i) {
    const Unit unit = unit_of(config, placements[i].name);
    const std::size_t kind = kinds.emplace(unit.kind, kinds.size()).first->second;
    const auto [at, fresh] = known.emplace(key_in_unit(placements[i], unit.kind), classes_.size());
    if (fresh) classes_.push_back({i, kind, unit.instance, 0});
    if (classes_[at->second].instance == unit.instance) ++classes_[at->second].in_unit;
    class_of_.push_back(at->second);
  }
  units_ = kinds.size();
}

const MeshPlanner::Stages& MeshPlanner::stages(const Mesh& mesh, const Flags& flags) const {
  Stages& found = stages_[{mesh.pp, virtual_stages(mesh, flags)}];
  if (found.members.empty())
    for (int pp = 0; pp < mesh.pp; ++pp) {
      std::vector<std::int64_t> members(classes_.size(), 0);
      for (std::size_t i = 0; i < placements_.size(); ++i)
        members[class_of_[i]] += on_stage(config_, mesh, flags, placements_[i].name, pp) ? 1 : 0;
      found.members.push_back(std::move(members));
    }
  return found;
}

RankMemory MeshPlanner::sum(const Mesh& mesh, const std::vector<std::int64_t>& members,
                            const std::vector<std::int64_t>& stored,
                            const std::vector<std::int64_t>& gathered) const {
  const auto bytes = [](DType dtype) { return static_cast<std::int64_t>(dtype_size(dtype)); };
  RankMemory memory;
  std::vector<std::int64_t> units(units_, 0);
  for (std::size_t c = 0; c < classes_.size(); ++c) {
    memory.parameters += members[c] * stored[c];
    if (members[c] > 0 && mesh.fsdp > 1) units[classes_[c].unit] += classes_[c].in_unit * gathered[c];
  }
  memory.gathered_bytes = *std::max_element(units.begin(), units.end()) * bytes(dtypes_.parameters);
  memory.parameter_bytes = memory.parameters * bytes(dtypes_.parameters);
  memory.gradient_bytes = memory.parameters * bytes(dtypes_.gradients);
  memory.optimizer_bytes = memory.parameters * dtypes_.optimizer_bytes_per_parameter();
  return memory;
}

std::vector<RankMemory> MeshPlanner::ranks(const Mesh& mesh, const Flags& flags) const {
  const std::vector<std::int64_t> activations = activation_bytes(config_, mesh, flags, batch_, dtypes_);
  const Stages& held = stages(mesh, flags);
  std::vector<RankMemory> ranks;
  std::vector<std::int64_t> stored(classes_.size()), gathered(classes_.size());
  for (int rank = 0; rank < mesh.world(); ++rank) {
    RankCoordinate at = coordinate_of(mesh, rank);
    if (at.dp > 0) {  // replicas hold the same
      at.dp = 0;
      ranks.push_back(ranks[static_cast<std::size_t>(rank_of(mesh, at))]);
      continue;
    }
    for (std::size_t c = 0; c < classes_.size(); ++c) {
      const ParameterPlacement& p = placements_[classes_[c].placement];
      const ParameterCut parts = cut_of(p, mesh, flags, at);
      stored[c] = local_elements(p, parts, false), gathered[c] = local_elements(p, parts, true);
    }
    ranks.push_back(sum(mesh, held.members[static_cast<std::size_t>(at.pp)], stored, gathered));
    ranks.back().activation_bytes = activations[static_cast<std::size_t>(at.pp)];
  }
  return ranks;
}

RankMemory MeshPlanner::most(const Mesh& mesh, const Flags& flags) const {
  const std::vector<std::int64_t> activations = activation_bytes(config_, mesh, flags, batch_, dtypes_);
  const Stages& held = stages(mesh, flags);
  std::vector<std::int64_t> stored, gathered;
  for (const Class& c : classes_) {
    const ParameterPlacement& p = placements_[c.placement];
    const ParameterCut parts = cut_of(p, mesh, flags, {});
    stored.push_back(largest_part(p, parts, false));
    gathered.push_back(largest_part(p, parts, true));
  }
  RankMemory most;
  for (std::size_t pp = 0; pp < held.members.size(); ++pp) {
    RankMemory memory = sum(mesh, held.members[pp], stored, gathered);
    memory.activation_bytes = activations[pp];
    if (memory.bytes() > most.bytes()) most = memory;
  }
  return most;
}

}  // namespace meshparity::layout

#include "harness/layout/ownership.h"

#include <algorithm>
#include <map>
#include <set>

#include "harness/layout/stages.h"
#include "harness/layout/token_ranges.h"

namespace meshparity::layout {
namespace {

bool ends_with(const std::string& name, const char* suffix) {
  const std::string end(suffix);
  return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

// How a parameter may be divided, by what it is in the model.
enum class Role { whole, cut, kv_head, expert };

Role role_of(const std::string& name, const Flags& flags) {
  if (flags.vision == "images" && name.rfind("model.visual.", 0) == 0) return Role::whole;
  if (name.find(".mlp.experts.") != std::string::npos) return Role::expert;
  if (ends_with(name, "k_proj.weight") || ends_with(name, "v_proj.weight")) return Role::kv_head;
  const bool norm = name.find("norm") != std::string::npos;
  for (const char* end :
       {"mlp.gate.weight", "shared_expert_gate.weight", "mtp.fc.weight", "pos_embed.weight",
        "patch_embed.proj.weight", "patch_embed.proj.bias", "attn.proj.bias", "linear_fc2.bias"})
    if (ends_with(name, end)) return Role::whole;
  return norm ? Role::whole : Role::cut;
}

// A stretch of a dimension and how many parts hold it.
struct Held {
  Range indices;
  std::int64_t times = 0;
};

// Sweeps over the ends of all ranges. Stretches come in order and cover [0, n), and what is held beyond.
std::vector<Held> sweep(const std::vector<Ranges>& parts, std::int64_t n) {
  std::map<std::int64_t, std::int64_t> change = {{0, 0}, {n, 0}};
  for (const Ranges& ranges : parts)
    for (const Range& range : ranges) ++change[range.begin], --change[range.end];
  std::vector<Held> held;
  std::int64_t times = 0;
  for (auto at = change.begin(); std::next(at) != change.end(); ++at) {
    times += at->second;
    const Range stretch{at->first, std::next(at)->first};
    if (!held.empty() && held.back().times == times)
      held.back().indices.end = stretch.end;
    else
      held.push_back({stretch, times});
  }
  return held;
}

// Every part of a dimension, and how many places among the parts it does not depend on.
std::vector<Ranges> parts_of(const ParameterPlacement& p, int dim, const ParameterCut& sizes) {
  const bool width = dim == p.tp_dim, experts = dim == 0 && p.expert, shard = dim == p.fsdp_dim;
  std::vector<Ranges> parts;
  ParameterCut at = sizes;
  for (at.width.index = 0; at.width.index < (width ? at.width.parts : 1); ++at.width.index)
    for (at.experts.index = 0; at.experts.index < (experts ? at.experts.parts : 1); ++at.experts.index)
      for (at.shard.index = 0; at.shard.index < (shard ? at.shard.parts : 1); ++at.shard.index)
        parts.push_back(dimension_ranges(p, dim, at, false));
  return parts;
}

// How many tensor-parallel ranks need each key-value head: those whose query heads read it.
std::vector<Held> kv_claims(const ModelConfig& c, std::int64_t length, int tp) {
  const std::int64_t heads = c.num_key_value_heads, group = c.num_attention_heads / heads,
                     width = length / heads;
  std::vector<Held> claims;
  for (std::int64_t head = 0; head < heads; ++head) {
    Held claim{{head * width, (head + 1) * width}, 0};
    for (int i = 0; i < tp; ++i) {
      const Range q = cut(c.num_attention_heads, tp, i);
      if (q.begin < (head + 1) * group && q.end > head * group) ++claim.times;
    }
    claims.push_back(claim);
  }
  return claims;
}

std::string held_text(const ParameterPlacement& p, int dim, Range indices, std::int64_t held,
                      std::int64_t claimed) {
  return p.name + ": indices " + std::to_string(indices.begin) + " to " + std::to_string(indices.end - 1) +
         " of dimension " + std::to_string(dim) + " are held by " + std::to_string(held) +
         " ranks, the plan counts " + std::to_string(claimed);
}

// Everything about a parameter that decides what is held and what is claimed.
std::string class_key(const ParameterPlacement& p) {
  std::string key = shape_text(p.shape) + " " + std::to_string(p.tp_dim) + " " + std::to_string(p.fsdp_dim) +
                    (p.expert ? " expert" : "") + (p.tower ? " tower" : "") + " role " +
                    std::to_string(static_cast<int>(role_of(p.name, {}))) +
                    (p.name.rfind("model.visual.", 0) == 0 ? " visual" : "");
  for (const Block& b : p.tp_blocks)
    key += " " + std::to_string(b.count) + "x" + std::to_string(b.width) + (b.replicate ? "r" : "");
  return key;
}

}  // namespace

OwnershipCheck::OwnershipCheck(const ModelConfig& config, const PlacementTable& placements, std::int64_t rows,
                               std::int64_t row_tokens)
    : config_(config), placements_(placements), rows_(rows), row_tokens_(row_tokens) {
  std::set<std::string> known;
  for (std::size_t i = 0; i < placements.size(); ++i)
    if (known.insert(class_key(placements[i])).second) distinct_.push_back(i);
}

std::string OwnershipCheck::problem(const Mesh& mesh, const Flags& flags) {
  std::string found = ranks_problem(mesh);
  if (found.empty()) found = stages_problem(mesh, flags);
  // What the cuts of dense parameters and of experts depend on.
  const auto key = [](const char* of, std::initializer_list<int> sizes) {
    std::string text = of;
    for (const int n : sizes) text += " " + std::to_string(n);
    return text;
  };
  const bool dense = first(key("dense", {mesh.tp, mesh.fsdp, mesh.expert_group(), flags.vision == "images"})),
             experts = first(key("experts", {mesh.expert_tp(), mesh.ep, mesh.expert_group(), mesh.fsdp > 1}));
  for (const std::size_t i : distinct_) {
    if (!found.empty()) break;
    // A row that is not what its role says depends on both.
    const ParameterPlacement& p = placements_[i];
    const bool odd = p.expert != (role_of(p.name, flags) == Role::expert);
    if (odd || (p.expert ? experts : dense)) found = parameter_problem(p, mesh, flags);
  }
  if (found.empty()) found = tokens_problem(mesh, flags);
  return found.empty() ? "" : mesh.text() + ": " + found;
}

// Every place on the axes is taken by exactly one rank, and every place among the experts by one rank of each
// stage and replica.
std::string OwnershipCheck::ranks_problem(const Mesh& mesh) {
  Mesh outer = mesh;
  outer.ep = 1, outer.etp = 0;
  if (first("ranks " + outer.text()))
    for (int rank = 0; rank < mesh.world(); ++rank) {
      const RankCoordinate c = coordinate_of(mesh, rank);
      const bool inside = c.pp < mesh.pp && c.dp < mesh.dp && c.fsdp < mesh.fsdp && c.ring < mesh.ring &&
                          c.uly < mesh.uly && c.tp < mesh.tp;
      if (!inside || rank_of(mesh, c) != rank)
        return "rank " + std::to_string(rank) + " has no place of its own";
    }
  const int group = mesh.expert_group(), etp = mesh.expert_tp();
  if (!config_.is_moe() ||
      !first("experts " + std::to_string(group) + " " + std::to_string(mesh.ep) + " " + std::to_string(etp)))
    return "";
  std::vector<char> taken(static_cast<std::size_t>(group), 0);
  for (int rank = 0; rank < group; ++rank) {
    const ExpertCoordinate e = expert_coordinate_of(mesh, coordinate_of(mesh, rank));
    const int place = (e.edp * mesh.ep + e.ep) * etp + e.etp;
    if (place < 0 || place >= group || taken[place]++)
      return "rank " + std::to_string(rank) + " has no place of its own among the experts";
  }
  return "";
}

// Every layer lies on one stage, and so does every other parameter; a tied embedding on the first and the
// last.
std::string OwnershipCheck::stages_problem(const Mesh& mesh, const Flags& flags) {
  if (!first("stages " + std::to_string(mesh.pp) + " " + std::to_string(virtual_stages(mesh, flags))))
    return "";
  for (const ParameterPlacement& p : placements_) {
    int stages = 0;
    for (int pp = 0; pp < mesh.pp; ++pp) stages += on_stage(config_, mesh, flags, p.name, pp) ? 1 : 0;
    const bool tied = config_.tie_word_embeddings && p.name == "model.embed_tokens.weight";
    const int claimed = tied && mesh.pp > 1 ? 2 : 1;
    if (stages != claimed)
      return p.name + ": lies on " + std::to_string(stages) + " stages, the plan counts " +
             std::to_string(claimed);
  }
  return "";
}

std::string OwnershipCheck::parameter_problem(const ParameterPlacement& p, const Mesh& mesh,
                                              const Flags& flags) const {
  const ParameterCut sizes = cut_of(p, mesh, flags, {});
  const Role role = role_of(p.name, flags);
  const std::int64_t replica = mesh.expert_group();  // ranks of one stage and one dp replica
  // Ranks of a replica share a place if they differ in nothing that cuts this parameter.
  const std::int64_t places = std::int64_t{sizes.width.parts} * sizes.experts.parts * sizes.shard.parts;
  // The claim: one rank out of fsdp; one out of tp where the role is cut; every rank of cp. Of experts one
  // rank out of ep and etp, and one out of edp where anything is sharded.
  std::int64_t claimed = replica / mesh.fsdp / (role == Role::cut ? mesh.tp : 1);
  if (role == Role::expert) claimed = mesh.fsdp > 1 ? 1 : mesh.edp();
  if (replica % places != 0) return p.name + ": its places are not the ranks of one replica";

  // Ranks that differ in nothing that cuts a dimension hold it alike; places that cut no dimension are
  // replicas as well.
  std::int64_t times = replica / places;
  if (p.tp_dim < 0) times *= sizes.width.parts;
  if (!p.expert) times *= sizes.experts.parts;
  const int dims = static_cast<int>(p.shape.size());
  const int claim_dim = role == Role::kv_head && p.tp_dim >= 0 ? p.tp_dim : p.fsdp_dim;
  for (int dim = 0; dim < dims; ++dim) {
    for (const Held& held : sweep(parts_of(p, dim, sizes), p.shape[dim]))
      if (held.indices.end > p.shape[dim] && held.times > 0)
        return held_text(p, dim, {std::max(held.indices.begin, p.shape[dim]), held.indices.end},
                         times * held.times, 0);
    if (dim == claim_dim) continue;
    for (const Held& held : sweep(parts_of(p, dim, sizes), p.shape[dim]))
      if (held.times != 1) return held_text(p, dim, held.indices, times * held.times, claimed);
  }
  std::vector<Held> claims = {{{0, p.shape[claim_dim]}, claimed}};
  if (role == Role::kv_head) {
    claims = kv_claims(config_, p.shape[claim_dim], mesh.tp);
    for (Held& claim : claims) claim.times *= replica / mesh.fsdp / mesh.tp;
  }
  for (const Held& held : sweep(parts_of(p, claim_dim, sizes), p.shape[claim_dim]))
    for (const Held& claim : claims) {
      const Range both{std::max(held.indices.begin, claim.indices.begin),
                       std::min(held.indices.end, claim.indices.end)};
      if (both.begin < both.end && times * held.times != claim.times)
        return held_text(p, claim_dim, both, times * held.times, claim.times);
    }
  return "";
}

// Rows go to data ranks in turn; the context ranks of one divide each row; with sp, tp divides what they
// hold.
std::string OwnershipCheck::tokens_problem(const Mesh& mesh, const Flags& flags) {
  const std::int64_t data = data_ranks(mesh);
  if (first("rows " + std::to_string(data))) {
    std::int64_t rows = 0;
    for (std::int64_t d = 0; d < data; ++d) rows += d < rows_ ? (rows_ - d + data - 1) / data : 0;
    if (rows != rows_)
      return "the data ranks hold " + std::to_string(rows) + " rows of " + std::to_string(rows_);
  }
  if (!first("tokens " + flags.layout + " " + std::to_string(mesh.ring) + " " + std::to_string(mesh.uly) +
             " " + std::to_string(flags.sp ? mesh.tp : 1)))
    return "";
  std::vector<Ranges> held = token_ranges({{0, row_tokens_}}, flags.layout, mesh.ring, mesh.uly);
  if (flags.sp) {
    std::vector<Ranges> pieces;
    for (const Ranges& stream : held)
      for (int i = 0; i < mesh.tp; ++i) pieces.push_back(slice(stream, cut(total(stream), mesh.tp, i)));
    held = std::move(pieces);
  }
  for (const Held& stretch : sweep(held, row_tokens_))
    if (stretch.times != 1)
      return "tokens " + std::to_string(stretch.indices.begin) + " to " +
             std::to_string(stretch.indices.end - 1) + " of a row are held " + std::to_string(stretch.times) +
             " times among the ranks that divide it, the plan counts once";
  return "";
}

}  // namespace meshparity::layout

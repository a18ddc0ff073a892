#include "impl/parallel/plan.h"

#include "harness/types/error.h"
#include "impl/parallel/pipeline.h"

namespace meshparity::impl {
namespace {

// How tp treats a parameter, before it is resolved for a rank.
struct Rule {
  int dim = -1;
  std::vector<Block> blocks;
  TpSum sum = TpSum::none;
  bool expert = false;
};

Rule replicated(TpSum sum) {
  return {-1, {}, sum, false};
}
Rule cut_along(int dim, std::vector<Block> blocks) {
  return {dim, std::move(blocks), TpSum::none, false};
}

// The vision tower. Its input and its residual stream are whole on every tp rank: the ranks see the same
// patches or, with whole weights, different images.
Rule vision_rule_of(const std::string& name, const VisionConfig& v, bool whole) {
  if (whole) return replicated(TpSum::all);
  const Block heads{v.num_heads, v.head_dim()}, ffn{v.intermediate_size, 1}, merged{v.merged_width(), 1};
  const Block width = name.find(".merger.") == std::string::npos ? ffn : merged;
  if (name.find(".attn.qkv.") != std::string::npos) return cut_along(0, {heads, heads, heads});
  if (name.ends_with(".attn.proj.weight")) return cut_along(1, {heads});
  if (name.find(".linear_fc1.") != std::string::npos) return cut_along(0, {width});
  if (name.ends_with(".linear_fc2.weight")) return cut_along(1, {width});
  return replicated(TpSum::none);
}

// The rule of one parameter, by the end of its name. Source: qwen35.md 3.1.
Rule rule_of(const std::string& name, const ModelConfig& c, const Mesh& mesh, const Flags& flags) {
  const bool sp = flags.sp;
  if (name.starts_with("model.visual.")) return vision_rule_of(name, c.vision, flags.vision == "images");
  const auto is = [&](const char* suffix) { return name.ends_with(suffix); };
  const Block vocabulary{c.vocab_size, 1}, queries{c.num_attention_heads, c.head_dim};
  const Block gdn_keys{c.linear_num_key_heads, c.linear_key_head_dim};
  const Block gdn_values{c.linear_num_value_heads, c.linear_value_head_dim};
  const Block ffn{c.intermediate_size, 1}, shared{c.shared_expert_intermediate_size, 1},
      expert{c.moe_intermediate_size, 1};

  if (is("embed_tokens.weight") || is("lm_head.weight")) return cut_along(0, {vocabulary});

  // The residual stream is the same on all tp ranks without sp, and a different part of the tokens with it.
  const bool of_mtp =
      name == "mtp.norm.weight" || name == "mtp.fc.weight" || name.starts_with("mtp.pre_fc_norm");
  if (is("input_layernorm.weight") || is("post_attention_layernorm.weight") || name == "model.norm.weight" ||
      of_mtp)
    return replicated(sp ? TpSum::all : TpSum::none);

  // One head's q and gate rows lie together.
  if (is("q_proj.weight")) return cut_along(0, {{c.num_attention_heads, 2 * c.head_dim}});
  if (is("k_proj.weight") || is("v_proj.weight")) {
    Rule rule = cut_along(0, {{c.num_key_value_heads, c.head_dim, /*replicate=*/true}});
    if (mesh.tp > c.num_key_value_heads) rule.sum = TpSum::replicas;
    return rule;
  }
  if (is("o_proj.weight")) return cut_along(1, {queries});
  // Replicated weights over sharded heads: every rank has its own heads' contribution, with or without sp.
  if (is("q_norm.weight") || is("k_norm.weight") || is("linear_attn.norm.weight"))
    return replicated(TpSum::all);

  if (is("in_proj_qkv.weight") || is("conv1d.weight")) return cut_along(0, {gdn_keys, gdn_keys, gdn_values});
  if (is("in_proj_z.weight")) return cut_along(0, {gdn_values});
  if (is("in_proj_b.weight") || is("in_proj_a.weight") || is("A_log") || is("dt_bias"))
    return cut_along(0, {{c.linear_num_value_heads, 1}});
  if (is("linear_attn.out_proj.weight")) return cut_along(1, {gdn_values});

  // Routing weights and the shared gate multiply partial sums over tp before their one reduction: their
  // gradients are partial.
  if (is("mlp.gate.weight") || is("shared_expert_gate.weight")) return replicated(TpSum::all);
  if (is("experts.gate_up_proj")) return {1, {expert, expert}, TpSum::none, true};
  if (is("experts.down_proj")) return {2, {expert}, TpSum::none, true};
  if (is("shared_expert.gate_proj.weight") || is("shared_expert.up_proj.weight"))
    return cut_along(0, {shared});
  if (is("shared_expert.down_proj.weight")) return cut_along(1, {shared});
  if (is("mlp.gate_proj.weight") || is("mlp.up_proj.weight")) return cut_along(0, {ffn});
  if (is("mlp.down_proj.weight")) return cut_along(1, {ffn});
  throw RunError("plan: no rule for parameter " + name);
}

bool first_of_replicas(std::int64_t units, std::int64_t tp, std::int64_t index) {
  return index == 0 || (index - 1) * units / tp != index * units / tp;
}

bool is_embedding(const std::string& name) {
  return name == "model.embed_tokens.weight";
}

// Is the parameter held by one of the stages? `tied`: the head is the embedding.
bool on_stages(const std::string& name, const std::vector<PipelineStage>& stages, bool tied) {
  const bool of_layer = name.starts_with("model.layers.");
  const auto at = name.find("layers.");
  for (const auto& stage : stages) {
    if (name.starts_with("model.visual.")) {
      if (stage.first) return true;
    } else if (of_layer) {
      const std::int64_t layer = std::stoll(name.substr(at + 7));
      if (layer >= stage.layers.begin && layer < stage.layers.end) return true;
    } else if (is_embedding(name)) {
      if (stage.first || (stage.last && tied)) return true;
    } else if (stage.last) {
      return true;
    }
  }
  return false;
}

}  // namespace

Plan make_plan(const ModelConfig& config, const Mesh& mesh, const Flags& flags, int rank) {
  Plan plan;
  plan.mesh = mesh;
  plan.at = coordinate_of(mesh, rank);
  plan.expert_at = expert_coordinate_of(mesh, plan.at);
  plan.num_key_value_heads = config.num_key_value_heads;
  plan.vocab_size = config.vocab_size;
  const auto stages = stages_of(mesh, flags, config.num_hidden_layers, plan.at.pp);
  for (const auto& info : parameters_of(config)) {
    if (!on_stages(info.name, stages, config.tie_word_embeddings)) continue;
    const Rule rule = rule_of(info.name, config, mesh, flags);
    PlanRow row;
    row.name = info.name;
    row.shape = info.shape;
    row.tp_dim = rule.dim;
    row.tp_blocks = rule.blocks;
    row.expert = rule.expert;
    row.tp_sum = mesh.tp > 1 ? rule.sum : TpSum::none;
    row.decays = decays(info.shape);
    if (rule.dim < 0)
      row.counts_in_norm = plan.at.tp == 0;
    else if (rule.sum == TpSum::replicas)
      row.counts_in_norm = first_of_replicas(config.num_key_value_heads, mesh.tp, plan.at.tp);
    // The context axes hold replicas of everything but experts, whose replicas are those over edp, where they
    // are not sharded over it.
    if (row.expert)
      row.counts_in_norm = mesh.fsdp > 1 || plan.expert_at.edp == 0;
    else if (plan.at.ring > 0 || plan.at.uly > 0)
      row.counts_in_norm = false;
    row.tied_over_pp = mesh.pp > 1 && config.tie_word_embeddings && is_embedding(row.name);
    if (row.tied_over_pp && plan.at.pp > 0) row.counts_in_norm = false;
    plan.rows.push_back(std::move(row));
  }
  return plan;
}

const PlanRow& Plan::row(const std::string& name) const {
  for (const auto& r : rows)
    if (r.name == name) return r;
  throw RunError("plan: this rank has no parameter " + name);
}

PlanRow& Plan::row(const std::string& name) {
  return const_cast<PlanRow&>(std::as_const(*this).row(name));
}

std::vector<Range> Plan::tp_ranges(const PlanRow& row, int index) const {
  const int ranks = row.expert ? mesh.expert_tp() : mesh.tp;
  if (row.tp_dim < 0) return {{0, row.shape.empty() ? 1 : row.shape[0]}};
  std::vector<Range> ranges;
  std::int64_t offset = 0;
  for (const auto& block : row.tp_blocks) {
    Range units = cut(block.count, ranks, index);
    if (block.replicate && ranks > block.count) {
      const std::int64_t unit =
          row.replica_unit ? row.replica_unit(block.count, ranks, index) : index * block.count / ranks;
      units = {unit, unit + 1};
    }
    ranges.push_back({offset + units.begin * block.width, offset + units.end * block.width});
    offset += block.count * block.width;
  }
  return ranges;
}

Shape Plan::tp_shape(const PlanRow& row) const {
  Shape shape = row.shape;
  if (row.expert) shape[0] = experts(row).size();
  if (row.tp_dim < 0) return shape;
  shape[row.tp_dim] = 0;
  for (const auto& range : tp_ranges(row, row.expert ? expert_at.etp : at.tp))
    shape[row.tp_dim] += range.size();
  return shape;
}

Range Plan::experts(const PlanRow& row) const {
  return cut(row.shape[0], mesh.ep, expert_at.ep);
}

bool Plan::experts_apart() const {
  return mesh.fsdp > 1 && mesh.ep * mesh.expert_tp() != mesh.cp() * mesh.tp;
}

int Plan::shard_ranks(const PlanRow& row) const {
  return row.expert && mesh.fsdp > 1 ? mesh.edp() : mesh.fsdp;
}

int Plan::shard_index(const PlanRow& row) const {
  return row.expert && mesh.fsdp > 1 ? expert_at.edp : at.fsdp;
}

Range Plan::shard_range(const PlanRow& row, int index) const {
  return cut(tp_shape(row)[row.fsdp_dim], shard_ranks(row), index);
}

Shape Plan::shard_shape(const PlanRow& row, int index) const {
  Shape shape = tp_shape(row);
  shape[row.fsdp_dim] = shard_range(row, index).size();
  return shape;
}

at::Tensor Plan::tp_part(const PlanRow& row, const at::Tensor& full) const {
  if (full.sizes() != at::IntArrayRef(row.shape))
    throw RunError("weight " + row.name + " has shape " + shape_text(full.sizes().vec()) +
                   ", the model needs " + shape_text(row.shape));
  if (row.tp_dim < 0) return full;
  const Range held = row.expert ? experts(row) : Range{0, row.shape[0]};
  const at::Tensor mine = row.expert ? full.slice(0, held.begin, held.end) : full;
  std::vector<at::Tensor> parts;
  for (const auto& range : tp_ranges(row, row.expert ? expert_at.etp : at.tp))
    parts.push_back(mine.slice(row.tp_dim, range.begin, range.end));
  return parts.size() == 1 ? parts[0] : at::cat(parts, row.tp_dim);
}

at::Tensor Plan::shard(const PlanRow& row, const at::Tensor& full) const {
  const Range rows_held = shard_range(row, shard_index(row));
  return tp_part(row, full).slice(row.fsdp_dim, rows_held.begin, rows_held.end);
}

Range Plan::vocabulary() const {
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"})
    for (const auto& r : rows)
      if (r.name == name) return tp_ranges(r, at.tp)[0];
  return cut(vocab_size, mesh.tp, at.tp);
}

std::vector<int> Plan::kv_replicas() const {
  std::vector<int> members;
  const auto unit = [&](int index) { return index * num_key_value_heads / mesh.tp; };
  for (int i = 0; i < mesh.tp; ++i)
    if (i == at.tp || (mesh.tp > num_key_value_heads && unit(i) == unit(at.tp))) members.push_back(i);
  return members;
}

}  // namespace meshparity::impl

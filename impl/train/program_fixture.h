// Small models and batches for tests of the rank program, and what one rank computes to hold a mesh against.
#pragma once

#include <ATen/CPUGeneratorImpl.h>

#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "impl/parallel/plan.h"
#include "impl/parallel/token_layout.h"
#include "impl/train/program.h"

namespace meshparity::impl::program_testing {

using Records = std::map<std::string, at::Tensor>;
using Weights = std::map<std::string, at::Tensor>;

inline ModelConfig dense_config() {
  ModelConfig c;
  c.vocab_size = 13, c.hidden_size = 8, c.num_hidden_layers = 3, c.full_attention = {false, true, false};
  c.num_attention_heads = 4, c.num_key_value_heads = 2, c.head_dim = 6, c.rotary_dim = 4,
  c.mrope_section = {1, 1, 0};
  c.linear_num_key_heads = 4, c.linear_num_value_heads = 8, c.linear_key_head_dim = 3,
  c.linear_value_head_dim = 2;
  c.intermediate_size = 7;
  return c;
}

inline ModelConfig moe_config() {
  ModelConfig c = dense_config();
  c.num_attention_heads = 6, c.num_key_value_heads = 1, c.linear_num_key_heads = 6,
  c.linear_num_value_heads = 6;
  c.intermediate_size = 0;
  c.num_experts = 5, c.num_experts_per_tok = 2, c.moe_intermediate_size = 4,
  c.shared_expert_intermediate_size = 5;
  return c;
}

// With a vision tower.
inline ModelConfig vision_config() {
  ModelConfig c = dense_config();
  c.vocab_size = 17, c.num_attention_heads = 12, c.num_key_value_heads = 12, c.rotary_dim = 6;
  c.mrope_section = {1, 1, 1}, c.linear_num_key_heads = 12, c.linear_num_value_heads = 12;
  c.vision.depth = 2, c.vision.hidden_size = 24, c.vision.num_heads = 6, c.vision.intermediate_size = 5;
  c.vision.patch_size = 1, c.vision.out_hidden_size = 8, c.vision.num_position_embeddings = 9;
  c.image_token_id = 13, c.video_token_id = 14, c.vision_start_token_id = 15, c.vision_end_token_id = 16;
  return c;
}

inline Weights random_weights(const ModelConfig& config) {
  Weights weights;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(23);
  for (const auto& p : parameters_of(config)) {
    const double scale = p.name.ends_with("proj.weight")     ? 0.4
                         : p.name.ends_with("conv1d.weight") ? 0.6
                                                             : 0.5;
    weights[p.name] = at::randn(p.shape, generator, at::kDouble).mul_(scale);
  }
  return weights;
}

// Rows of unequal length, micro-batches of unequal rows, a stretch without labels; more data ranks than rows
// in the second.
inline Batch uneven_batch() {
  Batch b;
  const std::vector<std::vector<std::int64_t>> rows = {{5, 2}, {1}, {3, 1, 9}, {2}, {4}};
  b.document_offsets = {0};
  b.row_offsets = {0};
  for (const auto& row : rows) {
    for (const auto length : row) b.document_offsets.push_back(b.document_offsets.back() + length);
    b.row_offsets.push_back(b.row_offsets.back() + static_cast<std::int64_t>(row.size()));
  }
  b.micro_batch_offsets = {0, 3, 4, 5};
  const std::int64_t n = b.document_offsets.back();
  for (std::int64_t t = 0; t < n; ++t) b.token_ids.push_back((t * 7 + t * t % 5) % 13);
  for (std::int64_t d = 0; d < b.documents(); ++d)
    for (std::int64_t t = b.document(d).begin; t < b.document(d).end; ++t)
      b.labels.push_back(t + 1 == b.document(d).end || (t > 8 && t < 13) ? kIgnoreLabel : b.token_ids[t + 1]);
  b.validate("test", 13);
  return b;
}

struct Run {
  ModelConfig config = dense_config();
  Batch batch = uneven_batch();
  TrainSpec train;
  std::string loss = "token_mean", loss_form = "sharded";
  int steps = 2;
  Flags flags;  // but sp
  Seams seams;

  std::vector<RankOutput> on(const std::string& mesh, bool sp) const {
    const Weights weights = random_weights(config);
    return on(mesh, sp, weights);
  }
  std::vector<RankOutput> on(const std::string& mesh, bool sp, const Weights& weights) const {
    RankInputs in;
    in.config = config, in.mesh = Mesh::parse(mesh), in.flags = flags, in.flags.sp = sp, in.batch = batch,
    in.train = train;
    in.loss = loss, in.loss_form = loss_form, in.steps = steps, in.activations = true, in.weights = &weights;
    std::vector<RankOutput> out(in.mesh.world());
    run_in_process(in.mesh.world(), {},
                   [&](Engine& engine) { out[engine.rank()] = run_rank(in, engine, seams); });
    return out;
  }
};

inline Records by_key(const RankOutput& out) {
  Records records;
  for (const auto& r : out.records) {
    REQUIRE(records.emplace(r.key, r.value).second);
    REQUIRE(r.value.is_contiguous());
  }
  return records;
}

// What this rank should hold of a record of the one-rank run.
inline at::Tensor expected(const std::string& key, const at::Tensor& full, const Plan& plan,
                           const TokenLayout& layout, bool sp) {
  std::vector<std::int64_t> tokens, residual;
  for (const auto& part : layout.micro_batches) {
    const Range own = sp ? cut(part.tokens(), plan.mesh.tp, plan.at.tp) : Range{0, part.tokens()};
    for (const std::int64_t i : part.real()) {
      tokens.push_back(part.global[i]);
      if (i >= own.begin && i < own.end) residual.push_back(part.global[i]);
    }
  }
  if (key == "logits") {
    const Range columns = cut(full.size(1), plan.mesh.tp, plan.at.tp);
    return full.index_select(0, at::tensor(tokens, at::kLong)).slice(1, columns.begin, columns.end);
  }
  if (key == "logprobs") return full.index_select(0, at::tensor(tokens, at::kLong));
  if (key.starts_with("activations/")) return full.index_select(0, at::tensor(residual, at::kLong));
  for (const char* kind : {"grads/", "weights/"}) {
    const auto at = key.find(kind);
    if (at != std::string::npos) return plan.shard(plan.row(key.substr(at + std::string(kind).size())), full);
  }
  return full;
}

inline void check_same(const Run& run, const std::string& mesh_text, bool sp) {
  Run alone = run;
  alone.flags = {};
  const Records want = by_key(alone.on("dp1", false)[0]);
  const double norm = want.at("grad_norm").item<double>();
  const Mesh mesh = Mesh::parse(mesh_text);
  const auto outputs = run.on(mesh_text, sp);
  std::set<std::string> emitted;  // by any rank: a stage emits what it holds
  for (int rank = 0; rank < mesh.world(); ++rank) {
    Flags flags = run.flags;
    flags.sp = sp;
    const Plan plan = make_plan(run.config, mesh, flags, rank);
    const TokenLayout layout = make_token_layout(run.batch, mesh, flags, rank);
    const Records got = by_key(outputs[rank]);
    if (mesh.pp == 1) REQUIRE(got.size() == want.size());
    for (const auto& [key, g] : got) {
      CAPTURE(key, mesh_text, sp, rank);
      emitted.insert(key);
      REQUIRE(want.count(key) == 1);
      const at::Tensor full = want.at(key), w = expected(key, full, plan, layout, sp);
      REQUIRE(g.sizes() == w.sizes());
      if (g.numel() == 0) continue;
      const double floor = key.starts_with("grads/") ? 1e-3 * norm : 1e-3;
      // Weights move by lr whatever the gradient's size: rounding in a tiny gradient is magnified up to lr /
      // eps times.
      const double bound =
          (key.starts_with("step") ? 1e-11 : 1e-12) * std::max(floor, full.abs().max().item<double>());
      CHECK((g - w).abs().max().item<double>() <= bound);
    }
  }
  REQUIRE(emitted.size() == want.size());
}

}  // namespace meshparity::impl::program_testing

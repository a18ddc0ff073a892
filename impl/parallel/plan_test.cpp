// The sharding table: every parameter has a row, the ranks' shards tile the full tensor, replicas and sums
// are those of the specification.
#include "impl/parallel/plan.h"

#include <catch2/catch.hpp>
#include <set>

#include "harness/types/error.h"
#include "impl/parallel/token_layout.h"

namespace meshparity::impl {
namespace {

ModelConfig config(bool moe) {
  ModelConfig c;
  c.vocab_size = 13, c.hidden_size = 10, c.num_hidden_layers = 2, c.full_attention = {false, true};
  c.num_attention_heads = 12, c.num_key_value_heads = 2, c.head_dim = 3;
  c.linear_num_key_heads = 12, c.linear_num_value_heads = 24, c.linear_key_head_dim = 3,
  c.linear_value_head_dim = 2;
  if (moe)
    c.num_experts = 5, c.num_experts_per_tok = 2, c.moe_intermediate_size = 7,
    c.shared_expert_intermediate_size = 5;
  else
    c.intermediate_size = 11;
  return c;
}

Mesh mesh(int dp, int fsdp, int tp) {
  Mesh m;
  m.dp = dp, m.fsdp = fsdp, m.tp = tp;
  return m;
}

Flags with_sp(bool sp) {
  Flags flags;
  flags.sp = sp;
  return flags;
}

at::Tensor numbered(const Shape& shape) {
  return at::arange(shape_numel(shape), at::kLong).view(shape);
}

}  // namespace

TEST_CASE("every parameter has a row and its shards hold every element as often as it is replicated") {
  for (const bool moe : {false, true})
    for (const Mesh& m :
         {mesh(1, 1, 1), mesh(2, 1, 2), mesh(1, 3, 2), mesh(1, 2, 4), mesh(1, 1, 12), mesh(1, 7, 1)}) {
      const ModelConfig c = config(moe);
      std::map<std::string, at::Tensor> held, counted;
      for (int rank = 0; rank < m.world(); ++rank) {
        const Plan plan = make_plan(c, m, Flags{}, rank);
        REQUIRE(plan.rows.size() == parameters_of(c).size());
        for (const auto& row : plan.rows) {
          const at::Tensor shard = plan.shard(row, numbered(row.shape));
          REQUIRE(shard.sizes() == at::IntArrayRef(plan.shard_shape(row, plan.shard_index(row))));
          const auto count = [&](std::map<std::string, at::Tensor>& into, bool add) {
            auto& total =
                into.try_emplace(row.name, at::zeros({shape_numel(row.shape)}, at::kLong)).first->second;
            if (add) total.index_add_(0, shard.reshape({-1}), at::ones({shard.numel()}, at::kLong));
          };
          count(held, true);
          count(counted, row.counts_in_norm && plan.at.dp == 0);
        }
      }
      for (const auto& info : parameters_of(c)) {
        const Plan plan = make_plan(c, m, Flags{}, 0);
        const PlanRow& row = plan.row(info.name);
        CAPTURE(info.name, m.text());
        const bool kv = row.tp_dim >= 0 && row.tp_blocks[0].replicate && m.tp > c.num_key_value_heads;
        const std::int64_t copies = m.dp * (row.tp_dim < 0 ? m.tp : kv ? m.tp / c.num_key_value_heads : 1);
        CHECK(held[info.name].eq(copies).all().item<bool>());
        CHECK(counted[info.name].eq(1).all().item<bool>());  // every element once in the norm
      }
    }
}

TEST_CASE("experts are whole over ep, cut over etp and edp, and every element is once in the norm") {
  ModelConfig c = config(true);
  c.num_experts = 12;
  for (const char* text : {"fsdp2.ep2", "tp2.ep2", "tp2.etp1", "tp4.ep2.etp1", "ring2.ep2",
                           "fsdp2.tp2.ep2.etp2", "fsdp2.uly2.ep4", "fsdp2.uly2.ep2", "dp2.fsdp2.ring3.ep6",
                           "fsdp2.tp2.etp1", "ring2.tp2.ep2.etp2", "dp2.fsdp2.tp2"}) {
    const Mesh m = Mesh::parse(text);
    REQUIRE(refusal(m, {}, c).empty());
    std::map<std::string, at::Tensor> held, counted;
    for (int rank = 0; rank < m.world(); ++rank) {
      const Plan plan = make_plan(c, m, Flags{}, rank);
      for (const auto& row : plan.rows) {
        const at::Tensor shard = plan.shard(row, numbered(row.shape)).reshape({-1});
        REQUIRE(shard.numel() == shape_numel(plan.shard_shape(row, plan.shard_index(row))));
        for (auto* into : {&held, &counted}) {
          auto& total =
              into->try_emplace(row.name, at::zeros({shape_numel(row.shape)}, at::kLong)).first->second;
          if (into == &held || (row.counts_in_norm && plan.at.dp == 0))
            total.index_add_(0, shard, at::ones({shard.numel()}, at::kLong));
        }
      }
    }
    CAPTURE(text);
    for (const auto& info : parameters_of(c)) {
      CHECK(counted[info.name].eq(1).all().item<bool>());
      if (info.name.find(".experts.") == std::string::npos) continue;
      const int copies = m.dp * (m.fsdp > 1 ? 1 : m.edp());
      CHECK(held[info.name].eq(copies).all().item<bool>());
    }
  }
}

TEST_CASE("fused q|k|v sections are cut section by section, value heads with their key heads") {
  const ModelConfig c = config(false);
  const Plan plan = make_plan(c, mesh(1, 1, 4), Flags{}, 2);
  const PlanRow& row = plan.row("model.layers.0.linear_attn.conv1d.weight");
  const std::vector<Range> want = {{18, 27}, {54, 63}, {96, 108}};
  CHECK((plan.tp_ranges(row, 2) == want));
  CHECK(plan.tp_shape(row) == Shape{30, 1, 4});
  CHECK((plan.tp_ranges(plan.row("model.layers.1.self_attn.q_proj.weight"), 2)[0] == Range{36, 54}));
}

TEST_CASE("key-value heads are replicated by blocks of ranks and summed inside them") {
  const ModelConfig c = config(false);
  std::vector<std::int64_t> heads;
  for (int rank = 0; rank < 6; ++rank) {
    const Plan plan = make_plan(c, mesh(1, 1, 6), Flags{}, rank);
    const PlanRow& row = plan.row("model.layers.1.self_attn.k_proj.weight");
    heads.push_back(plan.tp_ranges(row, rank)[0].begin / c.head_dim);
    CHECK(row.tp_sum == TpSum::replicas);
    CHECK(row.counts_in_norm == (rank % 3 == 0));
    CHECK(plan.kv_replicas() == (rank < 3 ? std::vector<int>{0, 1, 2} : std::vector<int>{3, 4, 5}));
  }
  CHECK(heads == std::vector<std::int64_t>{0, 0, 0, 1, 1, 1});
  const Plan few = make_plan(c, mesh(1, 1, 2), Flags{}, 1);
  CHECK(few.row("model.layers.1.self_attn.k_proj.weight").tp_sum == TpSum::none);
  CHECK(few.kv_replicas() == std::vector<int>{1});
}

TEST_CASE("norms of the residual stream are summed over tp with sp only, norms over heads always") {
  const ModelConfig c = config(true);
  for (const bool sp : {false, true}) {
    const Plan plan = make_plan(c, mesh(1, 1, 2), with_sp(sp), 0);
    for (const char* name : {"model.norm.weight", "model.layers.0.input_layernorm.weight"})
      CHECK(plan.row(name).tp_sum == (sp ? TpSum::all : TpSum::none));
    for (const char* name :
         {"model.layers.1.self_attn.q_norm.weight", "model.layers.1.self_attn.k_norm.weight",
          "model.layers.0.linear_attn.norm.weight", "model.layers.0.mlp.gate.weight",
          "model.layers.0.mlp.shared_expert_gate.weight"})
      CHECK(plan.row(name).tp_sum == TpSum::all);
    CHECK(plan.row("lm_head.weight").tp_sum == TpSum::none);
  }
}

TEST_CASE("a misshapen weight and an unknown parameter are named") {
  const Plan plan = make_plan(config(false), mesh(1, 1, 1), Flags{}, 0);
  CHECK_THROWS_AS(plan.row("model.nothing"), RunError);
  CHECK_THROWS_WITH(plan.shard(plan.row("model.norm.weight"), numbered({9})),
                    Catch::Contains("model.norm.weight") && Catch::Contains("[9]"));
}

TEST_CASE("rows go to data ranks in turn and no token is lost or doubled") {
  Batch batch;
  for (int i = 0; i < 20; ++i)
    batch.token_ids.push_back(i), batch.labels.push_back(i % 4 == 3 ? kIgnoreLabel : i + 1);
  batch.document_offsets = {0, 4, 5, 9, 14, 20};
  batch.row_offsets = {0, 2, 3, 4, 5};
  batch.micro_batch_offsets = {0, 3, 4};
  const Mesh m = mesh(2, 2, 2);
  Flags with_sp;
  with_sp.sp = true;
  std::multiset<std::int64_t> seen;
  for (int rank = 0; rank < m.world(); rank += 2) {
    const TokenLayout layout = make_token_layout(batch, m, with_sp, rank);
    REQUIRE(layout.micro_batches.size() == 2);
    for (const auto& part : layout.micro_batches) {
      seen.insert(part.global.begin(), part.global.end());
      CHECK(part.positions.size() == 3 * part.ids.size());
      CHECK(part.residual_sizes[0] + part.residual_sizes[1] == part.tokens());
    }
  }
  CHECK(seen.size() == 20);
  CHECK(std::set<std::int64_t>(seen.begin(), seen.end()).size() == 20);
  const TokenLayout first = make_token_layout(batch, m, with_sp, 0);
  CHECK(first.micro_batches[0].global == std::vector<std::int64_t>{0, 1, 2, 3, 4});
  CHECK(first.micro_batches[0].documents == std::vector<std::int64_t>{0, 0, 0, 0, 1});
  CHECK(first.micro_batches[0].residual_sizes == std::vector<std::int64_t>{2, 3});
  CHECK(make_token_layout(batch, m, with_sp, 6).micro_batches[1].tokens() == 0);
}

}  // namespace meshparity::impl

// The plan of a mesh against what it stands for: index lists, token lists, the communication plan of the
// batch written out, and hand-counted activations; and wrong placements, each of which must be found.
#include "harness/layout/mesh_plan.h"

#include <catch2/catch.hpp>

#include "harness/layout/communication_plan.h"
#include "harness/layout/layout_fixture.h"
#include "harness/layout/ownership.h"
#include "harness/layout/stages.h"
#include "harness/layout/token_order.h"
#include "harness/layout/token_ranges.h"

namespace meshparity::layout::mesh_plan_test {
namespace {

std::vector<Mesh> meshes_up_to(int most) {
  std::vector<Mesh> meshes;
  for (int world = 1; world <= most; ++world)
    for (const auto& mesh : enumerate_meshes(world))
      if (refusal(mesh, {}, fixture::model()).empty()) meshes.push_back(mesh);
  return meshes;
}

std::string problem_of(const PlacementTable& table, const std::string& mesh, Flags flags = {}) {
  const ModelConfig config = fixture::model();
  return OwnershipCheck(config, table, 5, 17).problem(Mesh::parse(mesh), flags);
}

ParameterPlacement& row(PlacementTable& table, const std::string& name) {
  for (auto& p : table)
    if (p.name == name) return p;
  throw std::runtime_error("no row " + name);
}

}  // namespace

TEST_CASE("ranges count what index lists hold, rank by rank, on every mesh up to 12 ranks") {
  const ModelConfig config = fixture::model();
  const PlacementTable table = fixture::placements(config);
  const MeshPlanner planner(config, table, {4, 8, 0}, {});
  std::int64_t wrong = 0, above = 0, ranks = 0;
  for (const Mesh& mesh : meshes_up_to(12)) {
    const LayoutMap map(config, mesh, {}, fixture::batch(), table);
    const RankMemory most = planner.most(mesh, {});
    const std::vector<RankMemory> every = planner.ranks(mesh, {});
    REQUIRE(every.size() == static_cast<std::size_t>(mesh.world()));
    for (int rank = 0; rank < mesh.world(); ++rank, ++ranks) {
      std::int64_t stored = 0;
      for (const auto& p : table) stored += shape_numel(map.local("weights/" + p.name, rank).local_shape());
      const RankMemory& memory = every[static_cast<std::size_t>(rank)];
      if (memory.parameters != stored) ++wrong;
      if (memory.bytes() > most.bytes()) ++above;
    }
  }
  CHECK(ranks > 1000);
  CHECK(wrong == 0);
  CHECK(above == 0);
}

TEST_CASE("gathered is the largest unit as its blocks use it, and nothing without fsdp") {
  const ModelConfig config = fixture::model();
  const PlacementTable table = fixture::placements(config);
  const MeshPlanner planner(config, table, {4, 8, 0}, {DType::float64, DType::float64, DType::float64});
  const Mesh mesh = Mesh::parse("fsdp2.tp2");
  const LayoutMap map(config, mesh, {}, fixture::batch(), table);
  std::map<std::string, std::int64_t> units;
  for (const auto& p : table) {
    const auto at = p.name.find("layers.");
    const std::string unit = at != std::string::npos                     ? p.name.substr(at, 8)
                             : p.name.find("embed") != std::string::npos ? "embed"
                                                                         : "head";
    units[unit] += shape_numel(map.local("gathered/" + p.name, 1).local_shape());
  }
  std::int64_t largest = 0;
  for (const auto& [unit, n] : units) largest = std::max(largest, n);
  CHECK(planner.ranks(mesh, {})[1].gathered_bytes == 8 * largest);
  CHECK(planner.ranks(Mesh::parse("tp2"), {})[1].gathered_bytes == 0);
}

TEST_CASE("bytes follow the dtypes, and a master copy is kept where the optimizer has another dtype") {
  const ModelConfig config = fixture::model();
  const PlacementTable table = fixture::placements(config);
  const Mesh mesh = Mesh::parse("dp1");
  const RankMemory mixed = MeshPlanner(config, table, {1, 4, 0}, {}).ranks(mesh, {})[0];
  CHECK(mixed.parameter_bytes == 2 * mixed.parameters);
  CHECK(mixed.gradient_bytes == 4 * mixed.parameters);
  CHECK(mixed.optimizer_bytes == 12 * mixed.parameters);
  const RankMemory plain =
      MeshPlanner(config, table, {1, 4, 0}, {DType::float64, DType::float64, DType::float64})
          .ranks(mesh, {})[0];
  CHECK(plain.optimizer_bytes == 16 * plain.parameters);
}

TEST_CASE("a row's most tokens are those of its longest part, in every layout") {
  // Seen in the logits alone: a model's head keeps two numbers of the stream and one per word of each token.
  ModelConfig config = fixture::model();
  config.num_hidden_layers = 0, config.full_attention.clear();
  const PlanDtypes dtypes{DType::float64, DType::float64, DType::float64};
  for (const char* layout : {"contiguous", "zigzag"})
    for (const char* name : {"ring2", "ring3.uly2", "ring5", "uly4"}) {
      Flags flags;
      flags.layout = layout;
      const Mesh mesh = Mesh::parse(name);
      std::int64_t most = 0;
      for (const Ranges& held : token_ranges({{0, 23}}, layout, mesh.ring, mesh.uly))
        most = std::max(most, total(held));
      INFO(layout << " " << name);
      CHECK(activation_bytes(config, mesh, flags, {1, 23, 0}, dtypes)[0] == 8 * most * (2 * 6 + 13));
    }
}

TEST_CASE("token ranges are the token order, for every layout, ring and uly") {
  for (const std::vector<Range>& documents :
       {std::vector<Range>{{0, 17}}, {{0, 1}, {1, 2}, {2, 14}, {14, 23}}, {{3, 4}}, {}})
    for (const char* layout : {"contiguous", "zigzag", "zigzag-document"})
      for (const int ring : {1, 2, 3, 5})
        for (const int uly : {1, 2, 3}) {
          const auto want = context_order(documents, layout, ring, uly);
          std::vector<std::vector<std::int64_t>> got;
          for (const Ranges& ranges : token_ranges(documents, layout, ring, uly)) {
            got.emplace_back();
            for (const Range& range : ranges)
              for (std::int64_t i = range.begin; i < range.end; ++i) got.back().push_back(i);
          }
          INFO(layout << " ring " << ring << " uly " << uly << " documents " << documents.size());
          CHECK(got == want);
        }
}

TEST_CASE("tower and multi-token prediction lie on the first and the last stage") {
  ModelConfig config = fixture::model();
  const Mesh mesh = Mesh::parse("pp2");
  for (const char* name : {"model.visual.blocks.1.norm1.weight", "model.visual.patch_embed.proj.bias"}) {
    CHECK(on_stage(config, mesh, {}, name, 0));
    CHECK(!on_stage(config, mesh, {}, name, 1));
  }
  for (const char* name : {"mtp.layers.0.self_attn.q_norm.weight", "mtp.pre_fc_norm_embedding.weight"}) {
    CHECK(!on_stage(config, mesh, {}, name, 0));
    CHECK(on_stage(config, mesh, {}, name, 1));
  }
}

TEST_CASE("every valid mesh up to 16 ranks owns everything as planned") {
  const ModelConfig config = fixture::model();
  const PlacementTable table = fixture::placements(config);
  OwnershipCheck check(config, table, 5, 17);
  int meshes = 0;
  for (const Mesh& mesh : meshes_up_to(16))
    for (const char* layout : {"contiguous", "zigzag", "zigzag-document"})
      for (const bool sp : {false, true}) {
        if ((sp && mesh.tp == 1) || (mesh.ring == 1 && layout != std::string("contiguous"))) continue;
        Flags flags;
        flags.layout = layout, flags.sp = sp;
        ++meshes;
        CHECK(check.problem(mesh, flags) == "");
      }
  CHECK(meshes > 400);
}

TEST_CASE("a wrong placement is found and its parameter named") {
  struct Wrong {
    const char* what;
    const char* parameter;
    const char* mesh;
    void (*plant)(ParameterPlacement&);
  };
  const Wrong wrongs[] = {
      {"whole where tp must cut it", "model.layers.0.mlp.shared_expert.down_proj.weight", "tp2",
       [](ParameterPlacement& p) { p.tp_dim = -1, p.tp_blocks.clear(); }},
      {"cut where every rank needs it", "model.layers.1.input_layernorm.weight", "tp2",
       [](ParameterPlacement& p) {
         p.tp_dim = 0, p.tp_blocks = {{6, 1}};
       }},
      {"blocks that overlap the next", "model.layers.0.linear_attn.in_proj_qkv.weight", "tp2",
       [](ParameterPlacement& p) { p.tp_blocks[0].width = 3; }},
      {"blocks that leave a gap", "model.layers.0.linear_attn.conv1d.weight", "tp2",
       [](ParameterPlacement& p) { p.tp_blocks.pop_back(); }},
      {"key-value heads cut, not replicated", "model.layers.1.self_attn.k_proj.weight", "tp4",
       [](ParameterPlacement& p) { p.tp_blocks[0].replicate = false; }},
      {"experts placed as dense weights", "model.layers.0.mlp.experts.down_proj", "ring5.ep5",
       [](ParameterPlacement& p) { p.expert = false; }},
      {"a dense weight placed as experts", "model.layers.1.mlp.gate.weight", "ring5.ep5",
       [](ParameterPlacement& p) { p.expert = true; }},
  };
  for (const auto& wrong : wrongs) {
    PlacementTable table = fixture::placements(fixture::model());
    REQUIRE(problem_of(table, wrong.mesh) == "");
    wrong.plant(row(table, wrong.parameter));
    const std::string said = problem_of(table, wrong.mesh);
    INFO(wrong.what << ": " << said);
    CHECK(said.rfind(std::string(wrong.mesh) + ": " + wrong.parameter + ": ", 0) == 0);
  }
}

TEST_CASE("waiting activations are those counted by hand") {
  // One layer of each kind, D 6; one rank, a row of 10 tokens; elements of float64.
  const ModelConfig config = fixture::model();
  const Mesh mesh = Mesh::parse("dp1");
  const PlanDtypes dtypes{DType::float64, DType::float64, DType::float64};
  Flags flags;
  const std::int64_t tokens = 10;
  // q|gate 24, k 6, v 6; q 12 and k 6 after norm and rope; output 12, gated 12; log-sum-exp 4.
  const std::int64_t attention = tokens * (2 * 6 + 24 + 6 + 6 + 12 + 6 + 12 + 12 + 4);
  // q|k|v 24 twice; z 8, b 8, a 8; output 8, gated 8; decay and beta 16; one state of 8 x 2 x 1.
  const std::int64_t delta_rule = tokens * (2 * 6 + 2 * 24 + 3 * 8 + 2 * 8 + 16) + 16;
  // Probabilities of 5 experts; two rows of input 6, gate, up and product 7 each, output 6; shared 3 x 5,
  // gate.
  const std::int64_t experts = tokens * (2 * 6 + 5 + 2 * (6 + 3 * 7 + 6) + 3 * 5 + 1);
  const std::int64_t head = tokens * (2 * 6 + 13);
  CHECK(activation_bytes(config, mesh, flags, {7, tokens, 0}, dtypes)[0] ==
        8 * (attention + delta_rule + 2 * experts + head));
  flags.recompute = true;
  const std::int64_t largest = std::max(attention, delta_rule) + experts;
  CHECK(activation_bytes(config, mesh, flags, {7, tokens, 0}, dtypes)[0] ==
        8 * (2 * tokens * 6 + largest + head));
  flags.recompute = false;
  // Two stages: the first waits for two micro-batches, the last for one; gpipe for all seven.
  const Mesh pp = Mesh::parse("pp2");
  CHECK(activation_bytes(config, pp, flags, {7, tokens, 0}, dtypes)[0] == 8 * 2 * (delta_rule + experts));
  CHECK(activation_bytes(config, pp, flags, {7, tokens, 0}, dtypes)[1] == 8 * (attention + experts + head));
  CHECK(activation_bytes(config, pp, flags, {1, tokens, 0}, dtypes)[0] == 8 * (delta_rule + experts));
  flags.schedule = "gpipe";
  CHECK(activation_bytes(config, pp, flags, {7, tokens, 0}, dtypes)[0] == 8 * 7 * (delta_rule + experts));
}

TEST_CASE("what leaves a rank in a step is the communication plan of all micro-batches") {
  const ModelConfig config = fixture::model();
  const PlacementTable table = fixture::placements(config);
  const PlanDtypes dtypes{DType::float64, DType::float64, DType::float64};
  const PlanBatch batch{6, 13, 0};
  for (const char* name :
       {"tp2", "fsdp2.tp2", "ring2.uly2", "pp2.dp2", "pp2.ring3", "fsdp2.uly2.ep5", "dp1"}) {
    Mesh mesh = Mesh::parse(name);
    if (mesh.ep == 5) mesh = Mesh::parse("fsdp5.ep5");
    INFO(mesh.text());
    // Every micro-batch has a row for data rank 0 and none for the others, as the plan counts.
    Batch written;
    written.document_offsets = written.row_offsets = written.micro_batch_offsets = {0};
    for (std::int64_t m = 1; m <= batch.micro_batches(mesh); ++m) {
      written.document_offsets.push_back(m * batch.row_tokens);
      written.row_offsets.push_back(m), written.micro_batch_offsets.push_back(m);
    }
    written.token_ids.assign(static_cast<std::size_t>(written.document_offsets.back()), 0);
    written.labels.assign(written.token_ids.size(), kIgnoreLabel);
    const LayoutMap map(config, mesh, {}, written, table);
    CommunicationRun run;
    run.even_routes = true;
    std::map<std::string, std::vector<std::int64_t>> want;  // axis -> [world]
    for (const auto& site : communication_plan(map, run)) {
      // Labels are counted for every document, and cut at floor: the only site that is not linear.
      if (site.site.rfind("loss.counts", 0) == 0) continue;
      const std::string axis = site.axis.rfind("pp.backward", 0) == 0 ? "pp" : site.axis;
      want[axis].resize(site.elements.size());
      for (std::size_t r = 0; r < site.elements.size(); ++r) want[axis][r] += site.elements[r];
    }
    for (const auto& axis : traffic(config, table, mesh, {}, batch, dtypes)) {
      std::int64_t most = 0;
      want[axis.axis].resize(static_cast<std::size_t>(mesh.world()));
      for (int rank = 0; rank < mesh.world(); ++rank) {
        const RankCoordinate at = coordinate_of(mesh, rank);
        const auto end = [](int index, int size) { return index == 0 || index == size - 1; };
        if (at.dp == 0 && at.fsdp == 0 && end(at.ring, mesh.ring) && end(at.uly, mesh.uly) &&
            end(at.tp, mesh.tp))
          most = std::max(most, want[axis.axis][rank]);
      }
      INFO(axis.axis);
      CHECK(axis.most / 8 >= most);
      // Counts of labels: 2 M numbers, reduced and gathered.
      const std::int64_t counts = axis.axis.find("dp.fsdp.cp") == std::string::npos ? 0 : 40 * mesh.world();
      CHECK(axis.most / 8 <= most + counts);
    }
  }
}

TEST_CASE("traffic of some ranks is what those ranks send") {
  const ModelConfig config = fixture::model();
  const PlacementTable table = fixture::placements(config);
  const LayoutMap map(config, Mesh::parse("pp2.fsdp2.tp2"), {}, fixture::batch(), table);
  CommunicationRun all, some;
  some.ranks = {2, 5};
  const auto want = communication_plan(map, all);
  std::int64_t sites = 0;
  for (const auto& site : communication_plan(map, some))
    for (const auto& other : want)
      if (site.site == other.site) {
        ++sites;
        CHECK(site.elements[2] == other.elements[2]);
        CHECK(site.elements[5] == other.elements[5]);
        CHECK(site.elements[0] == 0);
      }
  CHECK(sites > 10);
}

}  // namespace meshparity::layout::mesh_plan_test

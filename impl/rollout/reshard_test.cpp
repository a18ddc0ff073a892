// Resharding between random meshes against the shards that each mesh's plan cuts out of the full weights.
#include "impl/rollout/reshard.h"

#include <random>

#include "harness/types/error.h"
#include "impl/rollout/rollout_fixture.h"

namespace meshparity::impl::reshard_test {
namespace {

using namespace rollout_testing;

std::vector<Plan> plans_of(const ModelConfig& config, const Mesh& mesh, const Flags& flags) {
  std::vector<Plan> plans;
  for (int rank = 0; rank < mesh.world(); ++rank) plans.push_back(make_plan(config, mesh, flags, rank));
  return plans;
}

const PlanRow* row_of(const Plan& plan, const std::string& name) {
  for (const PlanRow& row : plan.rows)
    if (row.name == name) return &row;
  return nullptr;
}

// Every rank's shard of `name`, undefined where it holds none.
std::vector<at::Tensor> shards(const std::vector<Plan>& plans, const std::string& name,
                               const at::Tensor& full) {
  std::vector<at::Tensor> list;
  for (const Plan& plan : plans) {
    const PlanRow* row = row_of(plan, name);
    list.push_back(row ? plan.shard(*row, full).clone() : at::Tensor());
  }
  return list;
}

struct Moved {
  bool equal = true;
  std::vector<std::int64_t> sent;  // by rank
  std::int64_t missing = 0;        // elements that ranks need and do not hold already
};

// Moves all parameters from one mesh to the other, and compares every shard bit by bit.
Moved move_all(const ModelConfig& config, const Mesh& a, const Flags& of_a, const Mesh& b,
               const Flags& of_b) {
  const Weights weights = random_weights(config);
  const std::vector<Plan> from = plans_of(config, a, of_a), to = plans_of(config, b, of_b);
  const int ranks = std::max(a.world(), b.world());
  const Resharding resharding(from, to, [](const std::string&, int rank) { return rank; });
  Moved moved;
  moved.sent.resize(ranks, 0);
  std::vector<char> equal(ranks, 1);
  std::vector<int> all(ranks);
  for (int r = 0; r < ranks; ++r) all[r] = r;
  run_in_process(ranks, {}, [&](Engine& engine) {
    const std::size_t rank = engine.rank();
    std::vector<CommEvent> log;
    const auto collectives = make_collectives(&log, false);
    const auto everyone = engine.group("world", all);
    std::int64_t ordinal = 0;
    for (const auto& info : parameters_of(config)) {
      const at::Tensor& full = weights.at(info.name);
      const at::Tensor own = rank < from.size() ? shards(from, info.name, full)[rank] : at::Tensor();
      const at::Tensor want = rank < to.size() ? shards(to, info.name, full)[rank] : at::Tensor();
      const at::Tensor into = want.defined() ? at::full_like(want, -9) : at::Tensor();
      resharding.move(*collectives, *everyone, info.name, ordinal++, own, into, full.options());
      if (want.defined() && !at::equal(into, want)) equal[rank] = 0;
    }
    for (const CommEvent& event : log) moved.sent[rank] += event.elements_sent;
  });
  for (const char e : equal) moved.equal = moved.equal && e;
  for (const auto& info : parameters_of(config))
    for (int rank = 0; rank < b.world(); ++rank) {
      const PlanRow* row = row_of(to[rank], info.name);
      if (!row) continue;
      const ShardRanges needed = shard_ranges(to[rank], *row);
      moved.missing += needed.numel();
      if (rank >= a.world() || !row_of(from[rank], info.name)) continue;
      for (const auto& box : shared_boxes(shard_ranges(from[rank], *row_of(from[rank], info.name)), needed))
        moved.missing -= shape_numel(box.sizes);
    }
  return moved;
}

std::vector<Mesh> meshes_of(const ModelConfig& config, int most) {
  std::vector<Mesh> list;
  for (int world = 1; world <= most; ++world)
    for (const Mesh& mesh : enumerate_meshes(world))
      if (refusal(mesh, {}, config).empty()) list.push_back(mesh);
  return list;
}

}  // namespace

TEST_CASE(
    "resharding between random pairs of meshes gives every shard bit by bit, and sends no more than it "
    "must") {
  std::mt19937 random(17);
  for (const ModelConfig& config : {dense_config(), moe_config(), vision_config()}) {
    const std::vector<Mesh> meshes = meshes_of(config, 8);
    REQUIRE(meshes.size() > 50);
    for (int i = 0; i < 25; ++i) {
      const Mesh a = meshes[random() % meshes.size()], b = meshes[random() % meshes.size()];
      Flags of_a;
      of_a.sp = a.tp > 1 && random() % 2;
      if (a.pp == 1 && config.has_vision()) of_a.vision = "images";
      CAPTURE(a.text(), b.text());
      const Moved moved = move_all(config, a, of_a, b, {});
      CHECK(moved.equal);
      std::int64_t sent = 0;
      for (const std::int64_t n : moved.sent) sent += n;
      CHECK(sent == moved.missing);
    }
  }
}

TEST_CASE("interleaved stages and uneven shards are resharded") {
  ModelConfig config = dense_config();
  config.num_hidden_layers = 5, config.full_attention = {false, true, false, false, true};
  Flags interleaved;
  interleaved.schedule = "interleaved";
  for (const char* to : {"dp1", "tp4", "pp3", "pp5", "dp3"}) {
    CHECK(move_all(config, Mesh::parse("pp2.fsdp3"), interleaved, Mesh::parse(to), {}).equal);
    CHECK(move_all(config, Mesh::parse("fsdp5.tp2"), {}, Mesh::parse(to), {}).equal);
  }
}

TEST_CASE("replicas share the work of resharding") {
  // Four replicas to four ranks more: each sends a fourth, as nearly as parameters divide.
  const Moved moved = move_all(dense_config(), Mesh::parse("dp4"), {}, Mesh::parse("dp8"), {});
  CHECK(moved.equal);
  for (int rank = 0; rank < 4; ++rank) CHECK(moved.sent[rank] * 4 == moved.missing);
}

TEST_CASE("a shard list is cut block by block, and shared boxes cover what two shards share") {
  PlanRow row;
  row.name = "x", row.shape = {10, 3}, row.tp_dim = 0, row.tp_blocks = {{4, 1}, {6, 1}};
  Plan plan;
  plan.mesh = Mesh::parse("fsdp2.tp2");
  plan.at = coordinate_of(plan.mesh, 3);  // fsdp 1, tp 1
  plan.rows = {row};
  // Of rows 2, 3 | 7, 8, 9 the second half, floor(5 / 2) on.
  const ShardRanges held = shard_ranges(plan, row);
  REQUIRE(held.dims.size() == 2);
  CHECK((held.dims[0] == std::vector<Range>{{7, 10}}));
  plan.at = coordinate_of(plan.mesh, 1);
  CHECK((shard_ranges(plan, row).dims[0] == std::vector<Range>{{2, 4}}));
  const ShardRanges a{{{{0, 2}, {5, 9}}}}, b{{{{6, 7}, {1, 6}}}};
  std::vector<std::array<std::int64_t, 3>> boxes;
  for (const auto& box : shared_boxes(a, b)) boxes.push_back({box.begin_a[0], box.begin_b[0], box.sizes[0]});
  CHECK((boxes == std::vector<std::array<std::int64_t, 3>>{{1, 1, 1}, {3, 0, 1}, {2, 5, 1}}));
}

TEST_CASE("an element that no rank holds is an error, not a hole") {
  const ModelConfig config = dense_config();
  std::vector<Plan> from = plans_of(config, Mesh::parse("tp2"), {});
  const std::vector<Plan> to = plans_of(config, Mesh::parse("dp2"), {});
  from[1].row("model.layers.0.mlp.down_proj.weight").tp_blocks = {{5, 1}};
  const Resharding resharding(from, to, [](const std::string&, int rank) { return rank; });
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  REQUIRE_THROWS_WITH(
      run_in_process(2, {},
                     [&](Engine& engine) {
                       const Plan& plan = from[engine.rank()];
                       const at::Tensor own = at::zeros(plan.shard_shape(plan.row(name), 0), at::kDouble);
                       resharding.move(*make_collectives(nullptr, false), *engine.group("world", {0, 1}),
                                       name, 0, own, at::zeros({8, 7}, at::kDouble), own.options());
                     }),
      Catch::Contains("reshard: of " + name));
}

}  // namespace meshparity::impl::reshard_test

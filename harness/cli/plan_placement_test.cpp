// Two authors, one truth: impl's plan and scenarios/placements.toml were written apart, and every rank of
// every parameter must hold the same indices by both.
#include <catch2/catch.hpp>
#include <numeric>

#include "harness/layout/layout.h"
#include "harness/layout/mesh_plan.h"
#include "harness/types/error.h"
#include "impl/parallel/pipeline.h"
#include "impl/parallel/plan.h"
#include "scenarios/load.h"

namespace meshparity {
namespace {

// What of the plan and the table differs for one parameter on one rank, or nothing.
std::string difference(const impl::Plan& plan, const impl::PlanRow& row, const ParameterPlacement& placement,
                       const layout::LayoutMap& map, int rank) {
  if (row.name != placement.name) return "order: " + row.name + " where the table has " + placement.name;
  if (row.shape != placement.shape) return "shape " + shape_text(row.shape);
  if (row.tp_dim != placement.tp_dim) return "tp_dim " + std::to_string(row.tp_dim);
  if (!(row.tp_blocks == placement.tp_blocks)) return "tp_blocks";
  if (row.fsdp_dim != placement.fsdp_dim) return "fsdp_dim " + std::to_string(row.fsdp_dim);
  if (row.expert != placement.expert) return "expert";
  // The same declaration could still be cut differently: a tensor that holds its own flat indices is cut by
  // the plan, and the table says which numbers must come out.
  const at::Tensor full = at::arange(shape_numel(row.shape), at::kLong).view(row.shape);
  const at::Tensor shard = plan.shard(row, full).contiguous();
  const HostTensor numbered = HostTensor::from_int64(
      row.shape, {full.const_data_ptr<std::int64_t>(), full.const_data_ptr<std::int64_t>() + full.numel()});
  const HostTensor want = layout::shard(map.local("weights/" + row.name, rank), numbered.view());
  if (shard.sizes().vec() != want.shape)
    return "rank " + std::to_string(rank) + " holds " + shape_text(shard.sizes().vec()) +
           ", the table says " + shape_text(want.shape);
  const std::int64_t* got = shard.const_data_ptr<std::int64_t>();
  if (std::vector<std::int64_t>(got, got + shard.numel()) != want.to_int64())
    return "rank " + std::to_string(rank) + " holds other indices than the table says";
  return "";
}

std::vector<std::string> differences(const ModelConfig& config, const Mesh& mesh, bool sp,
                                     const std::function<void(impl::Plan&)>& edit = nullptr,
                                     const char* vision = "tensor") {
  Batch batch;
  batch.document_offsets = {0}, batch.row_offsets = {0}, batch.micro_batch_offsets = {0};
  Flags flags;
  flags.sp = sp, flags.vision = vision;
  const layout::LayoutMap map(config, mesh, flags, batch, scenarios::load_placements(config));
  const PlacementTable& table = map.placements();
  std::vector<std::string> found;
  for (int rank = 0; rank < mesh.world(); ++rank) {
    impl::Plan plan = impl::make_plan(config, mesh, flags, rank);
    if (edit) edit(plan);
    std::size_t next = 0;
    for (const auto& placement : table) {
      // A stage has no row for what other stages hold.
      if (shape_numel(map.local("weights/" + placement.name, rank).local_shape()) == 0 &&
          (next == plan.rows.size() || plan.rows[next].name != placement.name))
        continue;
      REQUIRE(next < plan.rows.size());
      if (const auto d = difference(plan, plan.rows[next++], placement, map, rank); !d.empty())
        found.push_back(mesh.text() + " " + placement.name + ": " + d);
    }
    REQUIRE(next == plan.rows.size());
  }
  return found;
}

}  // namespace

TEST_CASE("impl's plan and placements.toml place every parameter alike") {
  int compared = 0;
  for (const char* model : {"tiny-dense", "tiny-moe"}) {
    const ModelConfig config = scenarios::load_model(model);
    for (const int tp : {1, 2, 3, 4, 6, 8})
      for (const int fsdp : {1, 2, 3})
        for (const bool sp : {false, true}) {
          Mesh mesh;
          mesh.tp = tp, mesh.fsdp = fsdp;
          Flags flags;
          flags.sp = sp && tp > 1;
          // What a model refuses no rank ever cuts.
          if (sp != flags.sp || !refusal(mesh, flags, config).empty()) continue;
          CHECK(differences(config, mesh, sp) == std::vector<std::string>{});
          ++compared;
        }
  }
  CHECK(compared == 36);
}

TEST_CASE("impl's plan and placements.toml place a vision tower and multi-token prediction alike") {
  int compared = 0;
  for (const char* model : {"tiny-vl", "tiny-vl-moe"}) {
    const ModelConfig config = scenarios::load_model(model);
    for (const char* text :
         {"tp2", "tp3", "tp4", "tp6", "fsdp3.tp2", "pp2.ring2.tp2", "pp3.fsdp2", "fsdp2.tp2.ep2"})
      for (const char* vision : {"tensor", "images"})
        for (const bool sp : {false, true}) {
          Flags flags;
          flags.vision = vision, flags.sp = sp;
          const Mesh mesh = Mesh::parse(text);
          if (!refusal(mesh, flags, config).empty()) continue;
          CHECK(differences(config, mesh, sp, nullptr, vision) == std::vector<std::string>{});
          ++compared;
        }
  }
  CHECK(compared == 42);  // 16 of tiny-vl, 26 of tiny-vl-moe
}

TEST_CASE("impl's plan and placements.toml place experts and stages alike on every mesh up to 8 ranks") {
  int compared = 0;
  const ModelConfig config = scenarios::load_model("tiny-moe");
  for (int world = 2; world <= 8; ++world)
    for (const Mesh& mesh : enumerate_meshes(world)) {
      if (!refusal(mesh, {}, config).empty() || (mesh.pp == 1 && mesh.ep == 1 && mesh.etp == 0)) continue;
      CHECK(differences(config, mesh, false) == std::vector<std::string>{});
      ++compared;
    }
  CHECK(compared == 235);
}

TEST_CASE("a plan that cuts one parameter otherwise is found") {
  const ModelConfig config = scenarios::load_model("tiny-dense");
  Mesh mesh;
  mesh.tp = 4;
  const auto with = [&](const std::string& name, const std::function<void(impl::PlanRow&)>& edit) {
    return differences(config, mesh, false, [&](impl::Plan& plan) { edit(plan.row(name)); }).size();
  };
  const std::string layer = "model.layers.0.";
  CHECK(with(layer + "linear_attn.conv1d.weight", [](impl::PlanRow& row) {
          row.tp_blocks = {{row.shape[0], 1, false}};
        }) == 4);
  CHECK(with(layer + "linear_attn.norm.weight", [](impl::PlanRow& row) { row.fsdp_dim = -1; }) == 4);
  CHECK(with("model.layers.3.self_attn.k_proj.weight", [](impl::PlanRow& row) {
          row.replica_unit = [](std::int64_t units, std::int64_t, std::int64_t index) {
            return index % units;
          };
        }) == 2);  // ranks 1 and 2 of four
}

TEST_CASE("plan waits for as many micro-batches as the schedules keep") {
  std::int64_t compared = 0;
  for (const char* schedule : {"1f1b", "gpipe", "interleaved"})
    for (const int pp : {2, 3, 4, 7})
      for (int m = 1; m <= 3 * pp; ++m)
        for (int index = 0; index < pp; ++index) {
          Mesh mesh;
          mesh.pp = pp;
          Flags flags;
          flags.schedule = schedule;
          const auto waiting = layout::waiting_micro_batches(mesh, flags, m, index);
          const int kept = impl::most_in_flight(impl::pipeline_schedule(mesh, flags, index, m));
          INFO(schedule << " pp" << pp << " index " << index << " micro-batches " << m);
          const std::int64_t all = std::accumulate(waiting.begin(), waiting.end(), std::int64_t{0});
          // Where the last turn of interleaved stages is not full, forwards may run further ahead.
          const bool full = m % pp == 0 || schedule != std::string("interleaved");
          CHECK((full ? all == kept : all <= kept));
          compared += full ? 1 : 0;
        }
  CHECK(compared > 200);
}

}  // namespace meshparity

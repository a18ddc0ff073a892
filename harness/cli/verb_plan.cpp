// meshparity plan --model M --mesh MESH | --world N: parameters, optimizer state, activations and
// communication of every rank before anything runs (docs/plan.md). Computing stands in harness/layout;
// nothing here allocates a tensor.
#include "harness/cli/verb_plan.h"

#include <algorithm>
#include <iostream>
#include <map>
#include <optional>

#include "harness/cli/verb_report.h"
#include "harness/layout/ownership.h"
#include "harness/run/case_options.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

// Lines of a table of meshes where --list does not say.
constexpr std::size_t kListedMeshes = 30;

struct PlanOptions {
  std::string model = "tiny-dense", mesh, dtype = "bfloat16", gradients = "float32", optimizer = "float32",
              json;
  run::CaseOptions flags;
  layout::PlanBatch batch;
  int world = 0;
  std::optional<std::size_t> list;
  bool ranks = false;
};

DType plan_dtype(const char* option, const std::string& name) {
  for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16, DType::float16})
    if (dtype_name(dtype) == name) return dtype;
  throw InputError("--" + std::string(option) + " '" + name +
                   "' is unknown: float64, float32, bfloat16, float16");
}

PlanRequest request_of(const PlanOptions& o) {
  PlanRequest request;
  request.config = scenarios::load_model(o.model);
  request.placements = scenarios::load_placements(request.config);
  request.batch = o.batch;
  request.dtypes = {plan_dtype("dtype", o.dtype), plan_dtype("gradient-dtype", o.gradients),
                    plan_dtype("optimizer-dtype", o.optimizer)};
  for (const auto& flag : run::flag_options()) {
    const auto values = run::values_asked(flag, o.flags);
    if (values.size() != 1) throw InputError("--" + std::string(flag.name) + ": plan takes one value");
    flag.set(request.flags, values.front());
  }
  if (request.flags.pad != "none")
    throw InputError("--pad: plan counts rows that are full; there is nothing to pad");
  if (const std::int64_t patches = o.batch.row_patches; patches > 0) {
    if (!request.config.has_vision()) throw InputError("--row-patches: " + o.model + " has no vision tower");
    const std::int64_t merged = request.config.vision.merged_patches();
    if (patches % merged != 0 || patches / merged > o.batch.row_tokens)
      throw InputError("--row-patches " + std::to_string(patches) + ": must be a multiple of " +
                       std::to_string(merged) + ", which make a token, and no more tokens than --row-tokens");
  }
  return request;
}

int plan_verb(const PlanOptions& o) {
  if (o.mesh.empty() == (o.world == 0))
    throw InputError(
        "plan needs either --mesh, such as pp4.fsdp8.tp8, or --world N for all meshes of N ranks");
  if (o.list && o.world == 0) throw InputError("--list: plan lists meshes with --world only");
  if (o.ranks && o.world > 0) throw InputError("--ranks: plan has a line for every rank with --mesh only");
  require_writable(o.json);
  const PlanRequest request = request_of(o);
  const auto finish = [&](const auto& plan, const std::string& text) {
    std::cout << text << std::flush;
    if (!o.json.empty()) reports::write_file(o.json, plan_json(request, plan));
    return plan.problem.empty() ? 0 : 1;
  };
  if (o.world > 0) {
    const MeshTable table = plan_world(request, o.world);
    return finish(table, plan_text(request, table, o.list.value_or(kListedMeshes)));
  }
  const MeshPlan plan = plan_mesh(request, Mesh::parse(o.mesh));
  return finish(plan, plan_text(request, plan, o.ranks));
}

}  // namespace

MeshPlan plan_mesh(const PlanRequest& request, const Mesh& mesh) {
  if (mesh.world() > 65536) throw InputError("mesh '" + mesh.text() + "': more than 65536 ranks");
  std::string why;
  MeshPlan plan;
  plan.mesh = mesh;
  plan.flags = run::canonical_flags(mesh, request.flags, &why);
  if (!why.empty()) throw InputError(mesh.text() + ": " + why);
  if (const std::string reason = refusal(mesh, plan.flags, request.config); !reason.empty())
    throw InputError(reason);
  const layout::MeshPlanner planner(request.config, request.placements, request.batch, request.dtypes);
  layout::OwnershipCheck ownership(request.config, request.placements, request.batch.rows,
                                   request.batch.row_tokens);
  plan.problem = ownership.problem(mesh, plan.flags);
  plan.ranks = planner.ranks(mesh, plan.flags);
  plan.axes =
      layout::traffic(request.config, request.placements, mesh, plan.flags, request.batch, request.dtypes);
  return plan;
}

MeshTable plan_world(const PlanRequest& request, int world) {
  const layout::MeshPlanner planner(request.config, request.placements, request.batch, request.dtypes);
  layout::OwnershipCheck ownership(request.config, request.placements, request.batch.rows,
                                   request.batch.row_tokens);
  MeshTable table;
  table.world = world;
  std::map<std::string, std::int64_t> refused;
  for (const Mesh& mesh : enumerate_meshes(world)) {
    const Flags flags = run::canonical_flags(mesh, request.flags, nullptr);
    if (const std::string reason = refusal(mesh, flags, request.config); !reason.empty()) {
      ++refused[reason.substr(reason.find(": ") + 2)];
      continue;
    }
    if (table.problem.empty()) table.problem = ownership.problem(mesh, flags);
    table.lines.push_back({mesh, flags, planner.most(mesh, flags)});
  }
  std::stable_sort(table.lines.begin(), table.lines.end(),
                   [](const MeshLine& a, const MeshLine& b) { return a.most.bytes() < b.most.bytes(); });
  table.refused.assign(refused.begin(), refused.end());
  std::stable_sort(table.refused.begin(), table.refused.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return table;
}

void add_plan(CLI::App& app, Chosen& chosen) {
  auto o = std::make_shared<PlanOptions>();
  auto* verb =
      app.add_subcommand("plan", "Memory and communication of every rank of a mesh, without running it");
  verb->add_option("--model", o->model,
                   "a name in scenarios/models, a config.json or a Hugging Face directory");
  verb->add_option("--mesh", o->mesh, "one mesh in full: pp4.fsdp8.tp8.ep16");
  verb->add_option("--world", o->world, "all valid meshes of this many ranks, least memory first")
      ->check(CLI::Range(1, 65536));
  for (const auto& flag : run::flag_options()) {
    std::string values;
    for (const auto& value : flag.values) values += (values.empty() ? "" : ", ") + value;
    verb->add_option("--" + std::string(flag.name), o->flags.*flag.given, values)
        ->expected(1)
        ->group("Flags");
  }
  const auto size = [&](const char* name, std::int64_t& value, std::int64_t least, const char* help) {
    verb->add_option(name, value, help)
        ->check(CLI::Range(least, std::int64_t{1} << 24))
        ->capture_default_str()
        ->group("Batch");
  };
  size("--rows", o->batch.rows, 1, "rows of the global batch; a micro-batch is one row per data rank");
  size("--row-tokens", o->batch.row_tokens, 1, "tokens of a row");
  size("--row-patches", o->batch.row_patches, 0, "image patches of a row, before merging");
  const auto dtype = [&](const char* name, std::string& value, const char* help) {
    verb->add_option(name, value, help)->capture_default_str()->group("Dtypes");
  };
  dtype("--dtype", o->dtype, "of parameters and activations");
  dtype("--gradient-dtype", o->gradients, "of gradients");
  dtype("--optimizer-dtype", o->optimizer,
        "of AdamW's moments, and of a master copy where it is not --dtype");
  verb->add_option("--list", o->list, "with --world: lines to print, 0 for all (30)")
      ->check(CLI::Range(std::size_t{0}, std::size_t{1} << 24));
  verb->add_flag("--ranks", o->ranks, "with --mesh: a line for every rank");
  verb->add_option("--json", o->json, "write the plan, every rank or every mesh of it");
  verb->callback([o, &chosen] { chosen.run = [o] { return plan_verb(*o); }; });
}

}  // namespace meshparity::cli

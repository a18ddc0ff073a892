// meshparity plan: what a mesh costs every rank, without running it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/cli/verbs.h"
#include "harness/layout/mesh_plan.h"

namespace meshparity::cli {

// What was asked for, with the model it is about.
struct PlanRequest {
  ModelConfig config;
  PlacementTable placements;
  layout::PlanBatch batch;
  layout::PlanDtypes dtypes;
  Flags flags;
};

// One mesh in full.
struct MeshPlan {
  Mesh mesh;
  Flags flags;                            // as they take part on this mesh
  std::vector<layout::RankMemory> ranks;  // [world]
  std::vector<layout::AxisTraffic> axes;  // what leaves a rank in one step
  std::string problem;                    // what is not owned as planned, or empty
};

// One mesh of many.
struct MeshLine {
  Mesh mesh;
  Flags flags;
  layout::RankMemory most;
};
struct MeshTable {
  int world = 0;
  std::vector<MeshLine> lines;                                // by bytes, least first
  std::vector<std::pair<std::string, std::int64_t>> refused;  // reason, how many meshes
  std::string problem;
};

// Throws InputError with the reason where the mesh cannot be.
MeshPlan plan_mesh(const PlanRequest& request, const Mesh& mesh);
MeshTable plan_world(const PlanRequest& request, int world);

std::string plan_text(const PlanRequest& request, const MeshPlan& plan, bool every_rank);
std::string plan_text(const PlanRequest& request, const MeshTable& table, std::size_t lines);
std::string plan_json(const PlanRequest& request, const MeshPlan& plan);
std::string plan_json(const PlanRequest& request, const MeshTable& table);

void add_plan(CLI::App& app, Chosen& chosen);

}  // namespace meshparity::cli

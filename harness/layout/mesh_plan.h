// What a mesh costs every rank before anything runs: parameters, gradients and optimizer state from the
// placements (exact), activations by the formulas of docs/plan.md (an estimate), and what leaves a rank in
// one step by the communication plan. Allocates no tensor.
//
// To add a kind of activation: its row in activation_plan.cpp and in docs/plan.md.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "harness/layout/parameter_ranges.h"
#include "harness/types/model_config.h"
#include "harness/types/tensor.h"

namespace meshparity::layout {

// The global batch of one optimizer step: `rows` rows of `row_tokens` tokens, each one document. A
// micro-batch takes one row per data rank.
struct PlanBatch {
  std::int64_t rows = 1024;
  std::int64_t row_tokens = 4096;
  std::int64_t row_patches = 0;  // image patches of a row, before merging

  std::int64_t micro_batches(const Mesh& mesh) const {
    return std::max<std::int64_t>(1, (rows + data_ranks(mesh) - 1) / data_ranks(mesh));
  }
};

// What things are stored in. Where the optimizer's dtype is not the parameters' it keeps a master copy of
// them beside the two moments.
struct PlanDtypes {
  DType parameters = DType::bfloat16;  // activations too
  DType gradients = DType::float32;
  DType optimizer = DType::float32;

  std::int64_t optimizer_bytes_per_parameter() const {
    const auto size = static_cast<std::int64_t>(dtype_size(optimizer));
    return (optimizer == parameters ? 2 : 3) * size;
  }
};

// Of one rank, in bytes but for `parameters`.
struct RankMemory {
  std::int64_t parameters = 0;  // elements that it stores
  std::int64_t parameter_bytes = 0, gradient_bytes = 0, optimizer_bytes = 0;
  std::int64_t gathered_bytes = 0;    // the largest unit that fsdp puts together
  std::int64_t activation_bytes = 0;  // estimate
  std::int64_t bytes() const {
    return parameter_bytes + gradient_bytes + optimizer_bytes + gathered_bytes + activation_bytes;
  }
};

// What stays the same over all meshes of a model: which parameters are cut alike, and which lie together.
class MeshPlanner {
 public:
  MeshPlanner(const ModelConfig& config, const PlacementTable& placements, const PlanBatch& batch,
              const PlanDtypes& dtypes);

  // Of every rank; exact but for activations.
  std::vector<RankMemory> ranks(const Mesh& mesh, const Flags& flags) const;
  // No rank holds more; what a rank holds where every cut is even. Sums the largest part of every parameter.
  RankMemory most(const Mesh& mesh, const Flags& flags) const;

 private:
  // Parameters of one kind of unit that are cut alike.
  struct Class {
    std::size_t placement;  // the first of them
    std::size_t unit;       // kind of unit; layers of one kind are one
    std::string instance;   // the unit of the first, such as "layers.3"
    std::int64_t in_unit;   // how many of them a unit has
  };
  struct Stages {
    std::vector<std::vector<std::int64_t>> members;  // [pp][class]
  };
  const Stages& stages(const Mesh& mesh, const Flags& flags) const;
  // Of a rank of that stage which has so many elements of each class, stored and gathered.
  RankMemory sum(const Mesh& mesh, const std::vector<std::int64_t>& members,
                 const std::vector<std::int64_t>& stored, const std::vector<std::int64_t>& gathered) const;

  const ModelConfig& config_;
  const PlacementTable& placements_;
  PlanBatch batch_;
  PlanDtypes dtypes_;
  std::vector<Class> classes_;
  std::vector<std::size_t> class_of_;  // per placement
  std::size_t units_ = 0;              // kinds
  mutable std::map<std::pair<int, int>, Stages> stages_;
};

// Bytes of activations that wait for their backward on the fullest rank of every pipeline index, at its
// fullest.
std::vector<std::int64_t> activation_bytes(const ModelConfig& config, const Mesh& mesh, const Flags& flags,
                                           const PlanBatch& batch, const PlanDtypes& dtypes);

// Micro-batches of each virtual stage of a rank that have gone forward and not yet backward, at its fullest.
std::vector<std::int64_t> waiting_micro_batches(const Mesh& mesh, const Flags& flags,
                                                std::int64_t micro_batches, int pp);

// Bytes that leave a rank in one step, per axis, on the rank that sends most on it. Counted are the ranks of
// data rank 0 at the two ends of every axis, on every stage; rows to experts count as evenly spread.
struct AxisTraffic {
  std::string axis;
  std::int64_t least = 0, most = 0;  // bytes
};
std::vector<AxisTraffic> traffic(const ModelConfig& config, const PlacementTable& placements,
                                 const Mesh& mesh, const Flags& flags, const PlanBatch& batch,
                                 const PlanDtypes& dtypes);

}  // namespace meshparity::layout

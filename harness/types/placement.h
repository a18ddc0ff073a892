// Placements as data: how every parameter and every emitted tensor is cut over the mesh. The harness reads
// them from scenarios/placements.toml (written from the model's specification); impl has its own plan,
// written independently.
#pragma once

#include <string>
#include <vector>

#include "harness/types/mesh.h"
#include "harness/types/model_config.h"

namespace meshparity {

// `count` units of `width` consecutive indices; a tensor-parallel cut gives every rank whole units,
// floor(i*count/tp). When `replicate` is set and tp > count, rank i holds unit floor(i*count/tp) (key-value
// heads).
struct Block {
  std::int64_t count = 0;
  std::int64_t width = 1;
  bool replicate = false;
  bool operator==(const Block&) const = default;
};

// How one parameter is placed, resolved for one model: dimension `tp_dim` is the concatenation of
// `tp_blocks`, each cut separately over tp (-1: replicated over tp). fsdp then cuts dimension `fsdp_dim` of
// what remains at floor(i*n/w).
struct ParameterPlacement {
  std::string name;
  Shape shape;
  int tp_dim = -1;
  std::vector<Block> tp_blocks;
  int fsdp_dim = 0;
  // Dimension 0 is the expert, cut over ep; etp takes the place of tp, edp that of fsdp.
  bool expert = false;
  // Of the vision tower: tp cuts it only where the tower is tensor-parallel (Flags::vision).
  bool tower = false;
};

// The table of one model: one row per parameter, in parameters_of order.
using PlacementTable = std::vector<ParameterPlacement>;

}  // namespace meshparity

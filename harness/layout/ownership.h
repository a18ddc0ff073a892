// Is every parameter element and every token of a mesh held by exactly the ranks that the plan counts? By
// index arithmetic over ranges, so that thousands of meshes of thousands of ranks take seconds. What is held
// follows from the placements; what is claimed from the parameter's role in the model and the sizes of the
// mesh alone.
//
// To add a kind of parameter: its role in ownership.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include "harness/layout/parameter_ranges.h"
#include "harness/types/model_config.h"

namespace meshparity::layout {

class OwnershipCheck {
 public:
  // A batch of `rows` rows of `row_tokens` tokens each.
  OwnershipCheck(const ModelConfig& config, const PlacementTable& placements, std::int64_t rows,
                 std::int64_t row_tokens);

  // The first parameter, layer or token that is not held as claimed, as one line ("tp2: model.norm.weight:
  // ..."); empty where there is none. What a mesh shares with one checked before is not checked again.
  std::string problem(const Mesh& mesh, const Flags& flags);

  std::int64_t parameters() const { return static_cast<std::int64_t>(placements_.size()); }

 private:
  std::string ranks_problem(const Mesh& mesh);
  std::string stages_problem(const Mesh& mesh, const Flags& flags);
  std::string parameter_problem(const ParameterPlacement& placement, const Mesh& mesh,
                                const Flags& flags) const;
  std::string tokens_problem(const Mesh& mesh, const Flags& flags);
  // True the first time; what follows is then checked.
  bool first(const std::string& key) { return seen_.insert(key).second; }

  const ModelConfig& config_;
  const PlacementTable& placements_;
  std::vector<std::size_t> distinct_;  // first parameter of every way to be cut
  std::int64_t rows_, row_tokens_;
  std::unordered_set<std::string> seen_;
};

}  // namespace meshparity::layout

// Weight sets for `weights`: whole ones of any format, and per-rank files put together by the layout's maps.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "harness/types/weight_set.h"

namespace meshparity::cli {

// A whole set: what golden::open_weights opens, and torch .pt files.
std::unique_ptr<WeightSet> open_whole_weights(const std::string& argument);

// Does the argument name per-rank files: a pattern, or {rank} where the rank's number stands?
bool names_ranks(const std::string& argument);

struct RankWeights {
  std::unique_ptr<WeightSet> set;
  // What is wrong with the ranks' own files, one line each: a part of another shape, replicas that differ,
  // elements that no rank holds, a weight that the model has not.
  std::vector<std::string> wrong;
  std::vector<std::string> notes;
};

// Puts the files of every rank of `mesh` together: `pattern` names one file a rank (.safetensors, HDF5, .pt)
// under the checkpoint's names; `model` gives the shapes (a name, a config.json or its directory). The lowest
// rank that holds an element provides it. One weight at a time is in memory; the whole is in a temporary
// file. Throws InputError for a mesh that is refused, ranks that are missing, and files that cannot be read.
RankWeights open_rank_weights(const std::string& pattern, const std::string& mesh, const std::string& model);

// What `argument` says about its model: its directory or its own text of a config; "" where it says nothing.
std::string model_of_weights(const std::string& argument);

}  // namespace meshparity::cli

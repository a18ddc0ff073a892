// A small checkpoint from a big one: rows are read where they lie, nothing is copied in memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/types/cut.h"
#include "harness/types/model_config.h"

namespace meshparity::golden {

struct CheckpointCut {
  ModelConfig from, to;           // to: fewer layers, experts, rows of the vocabulary; else the same sizes
  std::vector<Range> vocabulary;  // rows of `from` in the order they have in `to`; together to.vocab_size
};

struct CutResult {
  std::int64_t tensors = 0, bytes = 0;  // written
  std::int64_t left_out = 0;            // tensors of `from` that are not in `to` at all
};

// Writes `file` (safetensors) from the checkpoint in `directory`, whole or not at all, under the names and in
// the dtypes stored there: the first layers and the first experts with their rows of the router, the chosen
// rows of embedding and head, everything else whole. Throws InputError naming file and weight for one that is
// missing, is no parameter of `from`, stands twice or has another shape.
CutResult cut_checkpoint(const std::string& directory, const CheckpointCut& cut, const std::string& file);

}  // namespace meshparity::golden

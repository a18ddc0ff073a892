// One document of a batch with all that the model is given for it.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "harness/types/batch.h"
#include "harness/types/model_config.h"

namespace meshparity::reference {

// Legend: T tokens, P patches, W numbers in a patch.
struct Document {
  at::Tensor token_ids;  // [T] int64
  at::Tensor positions;  // [3, T] int64: time, height, width
  // Images, and videos, whose placeholders stand among the tokens; patches [P, W], undefined where none is.
  struct Sight {
    at::Tensor patches;
    std::vector<Grid> grids;
  };
  Sight images, videos;
};

// Document d of a batch that its validate() accepted. Positions are the batch's own; else, where the document
// has images, those of rope_index, and else the index on all three axes. Patches have the dtype of `options`.
Document document_of(const ModelConfig& config, const Batch& batch, std::int64_t d,
                     const at::TensorOptions& options);

}  // namespace meshparity::reference

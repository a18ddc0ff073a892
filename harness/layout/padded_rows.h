// The rows of a micro-batch that a data rank holds, with the padding of the flag `pad`, before the context
// axes cut them: the design's rules of rows and padding, for whoever places or counts tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/mesh.h"

namespace meshparity::layout {

// A row with its padding and its documents as ranges of places in it. Padding to the left or right of the row
// is a stretch of its own; padding of a document lies inside its range.
struct PaddedRow {
  std::vector<std::int64_t> tokens;  // global token numbers, -1 where padded
  std::vector<Range> documents;
};

// Row i of micro-batch `micro_batch` where i mod (dp * fsdp) is `data_rank`, in order. `pad`: none; left and
// right fill every row to the longest of its micro-batch, rounded up to a multiple of 2*cp; document fills
// every document at its end to a multiple of 2*cp.
std::vector<PaddedRow> padded_rows(const Batch& batch, const Mesh& mesh, const std::string& pad,
                                   std::int64_t micro_batch, int data_rank);

// The batch with its padding written out: rows in their order; padding has id 0 and no label, and is a
// document of its own to the left or right of a row, the tail of its document else. `padding`, where asked
// for: [N] which tokens it is.
Batch padded_batch(const Batch& batch, const Mesh& mesh, const std::string& pad,
                   std::vector<bool>* padding = nullptr);

}  // namespace meshparity::layout

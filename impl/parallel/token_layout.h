// Which tokens a rank holds in every micro-batch, with everything that is known per token: ids, labels
// (shifted before any cutting), positions, documents. Pure functions of the global batch: no rank needs
// another to build its shard. To add an axis that cuts tokens: cut the rows' tokens in make_token_layout.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/mesh.h"

namespace meshparity::impl {

// The stream of one micro-batch on one data rank: row after row, document after document.
struct MicroBatchTokens {
  std::vector<std::int64_t> global;     // [T] index in the whole batch
  std::vector<std::int64_t> ids;        // [T]
  std::vector<std::int64_t> labels;     // [T] next token of the same document, or kIgnoreLabel
  std::vector<std::int64_t> documents;  // [T] global document number
  std::vector<std::int64_t> positions;  // [3*T] (t, h, w), axis after axis
  // Tokens of the residual stream per tp rank: the floor cut with sp, all tokens on each rank without.
  std::vector<std::int64_t> residual_sizes;

  std::int64_t tokens() const { return static_cast<std::int64_t>(ids.size()); }
};

struct TokenLayout {
  bool sequence = false;  // the residual stream is cut over tp (sp)
  std::vector<MicroBatchTokens> micro_batches;
};

TokenLayout make_token_layout(const Batch& batch, const Mesh& mesh, bool sp, int rank);

}  // namespace meshparity::impl

// Which tokens a rank holds in every micro-batch, with everything that is known per token: ids, labels
// (shifted before any cutting), positions, documents. Pure functions of the global batch: no rank needs
// another to build its shard. To add an axis that cuts tokens: choose among the stream's tokens in
// make_token_layout.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/mesh.h"
#include "impl/parallel/context_order.h"

namespace meshparity::impl {

// What one rank holds of a micro-batch: its data rank's rows, row after row, of each row the part that the
// context axes give it, in the order of the layout.
constexpr std::int64_t kPadding = -1;

struct MicroBatchTokens {
  std::vector<std::int64_t> global;     // [T] index in the whole batch, kPadding where padded
  std::vector<std::int64_t> ids;        // [T]
  std::vector<std::int64_t> labels;     // [T] next token of the same document, or kIgnoreLabel
  std::vector<std::int64_t> documents;  // [T] global document number; padding outside documents: its own
  std::vector<std::int64_t> positions;  // [3*T] (t, h, w), axis after axis
  // Tokens of the residual stream per tp rank: the floor cut with sp, all tokens on each rank without.
  std::vector<std::int64_t> residual_sizes;

  // The whole stream of the data rank, of which this rank holds a part: rows and documents as stream numbers,
  // and every stream token's global document.
  ContextStream stream;
  std::vector<std::int64_t> stream_documents;

  // Places of the tokens that are not padding.
  std::vector<std::int64_t> real() const;
  std::int64_t tokens() const { return static_cast<std::int64_t>(ids.size()); }
};

struct TokenLayout {
  bool sequence = false;         // the residual stream is cut over tp (sp)
  const Batch* batch = nullptr;  // what the tokens were taken from
  std::vector<MicroBatchTokens> micro_batches;
};

// What multi-token prediction reads and predicts at every token of a part [T]: the next token of the same
// document, else -1, and that token's label, else kIgnoreLabel. Of the whole document, wherever it is cut.
struct NextTokens {
  std::vector<std::int64_t> ids, labels;
};
NextTokens next_tokens(const Batch& batch, const MicroBatchTokens& tokens);

TokenLayout make_token_layout(const Batch& batch, const Mesh& mesh, const Flags& flags, int rank);

}  // namespace meshparity::impl

// What the model needs to know about the tokens of one micro-batch on one rank, computed once and read by
// every layer: which document each token belongs to, and from it the taps of the convolution, the rotary
// tables, the attention masks and the chunk masks of the delta rule. Rows need no notion of their own: a row
// is a run of documents. To add a mixer that looks across tokens: derive its table here, from documents and
// positions alone.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "harness/types/model_config.h"
#include "impl/blocks/delta_piece.h"

namespace meshparity::impl {

struct MicroBatchTokens;  // impl/parallel/token_layout.h

// Queries [begin, end) and the keys [key_begin, end) they may see: from the start of the first query's
// document.
struct AttentionBlock {
  std::int64_t begin = 0, end = 0, key_begin = 0;
  at::Tensor bias;  // [end - begin, end - key_begin]: 0 where the key is in the query's document and not
                    // after it, else -inf
};

// The token stream in `count` chunks of `length` tokens; the tail is padded with tokens that decay nothing
// and write nothing. Decays stay finite and documents enter as factors (a -inf inside a cumulative sum would
// make NaN).
struct DeltaChunks {
  std::int64_t count = 0, length = 0;
  // [count, 1, length, length]: 0 where j <= i in the same document, else -inf.
  at::Tensor bias;
  // [count, 1, length]: 1 where the token's document is that of the state entering the chunk.
  at::Tensor entry;
  // [count, 1, length]: 1 where the token's document is that of the chunk's last token.
  at::Tensor exit;
  // [count, 1, 1, 1]: 1 where the entering state's document is that of the chunk's last token.
  at::Tensor carry;
};

struct PackingOptions {
  at::ScalarType dtype = at::kDouble;
  at::Device device = at::kCPU;        // where the tables lie; they are computed on the host
  std::int64_t chunk_length = 64;      // longest chunk of the delta rule
  std::int64_t attention_block = 512;  // queries scored at once: bounds the memory of a long stream
};

struct PackedTokens {
  PackingOptions options;
  std::int64_t tokens = 0;
  std::vector<std::int64_t> documents;  // [T]
  // [T, W] int64: token under tap j (W-1 = the current one), or T where the document had not begun.
  at::Tensor conv_sources;
  // [T, W] int64: the token that reads this one through tap j, or T.
  at::Tensor conv_targets;
  // [T, 1, head_dim]: 1 on dimensions that do not rotate.
  at::Tensor rope_cos;
  // [T, 1, head_dim]: minus on the first half of the rotated dimensions, 0 on those that do not rotate.
  at::Tensor rope_sin;
  // [head_dim] int64: the other half of each rotated pair, itself elsewhere.
  at::Tensor rope_partner;
  std::vector<AttentionBlock> attention;
  // For the delta rule on ATen: chunks of the stream. For the fused one: every document cut into equal pieces
  // of at most a chunk. Both follow from `documents`; to change boundaries use with_documents.
  DeltaChunks chunks;
  std::vector<DeltaPiece> pieces;
};

// `documents` [T]: a document's tokens are consecutive. `positions` [3*T]: (t, h, w) of every token, axis
// after axis.
PackedTokens pack_tokens(const std::vector<std::int64_t>& documents,
                         const std::vector<std::int64_t>& positions, const ModelConfig& config,
                         const PackingOptions& options);

// The parts of it, for tokens that context parallelism mixes in another order than it rotates them.
PackedTokens pack_positions(const std::vector<std::int64_t>& positions, const ModelConfig& config,
                            const PackingOptions& options);  // rope only
PackedTokens pack_documents(const std::vector<std::int64_t>& documents, std::int64_t conv_width,
                            const PackingOptions& options);  // all but rope

// The same tokens and positions, cut into other documents: what a mixer sees that was told wrong boundaries.
PackedTokens with_documents(const PackedTokens& tokens, const std::vector<std::int64_t>& documents);
// The same tokens and documents at other positions [3*T]: what attention sees that was told wrong positions.
PackedTokens with_positions(const PackedTokens& tokens, const std::vector<std::int64_t>& positions,
                            const ModelConfig& config);

// What a decorator of the packing sees: the tables just built for one micro-batch, and what they were built
// from. With context parallelism they hold positions alone.
struct PackingEdit {
  PackedTokens& packed;
  const MicroBatchTokens& tokens;
  std::int64_t micro_batch;
  const ModelConfig& config;
};

}  // namespace meshparity::impl

// Multi-token prediction: one more decoder layer of the full-attention kind on top of the model, which reads
// the final norm's output of a token and the embedding of the next one, and predicts the token after that
// with the model's own head. Source: qwen35.md 1.9. Shapes: T tokens of this rank's stream, D hidden.
#pragma once

#include "impl/blocks/decoder.h"

namespace meshparity::impl {

// Embeddings of input.next_ids in residual order, [T, D]; zero where a document has no next token.
at::Tensor mtp_embed(const BlockContext& context, const UnitWeights& embedding, const DecoderInput& input);

// The head of input.next_labels. hidden, next [T, D] in residual order; `head` as in decoder_head. Positions
// are those of the token itself. With `recompute` the layer runs again in backward. The layer's router is in
// no term of the loss: those are means over the model's own layers.
HeadOutput mtp_head(const BlockContext& context, const ShardedParameters& parameters, const UnitWeights& head,
                    const DecoderInput& input, const at::Tensor& hidden, const at::Tensor& next,
                    bool recompute);

}  // namespace meshparity::impl

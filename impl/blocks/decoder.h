// The model on one micro-batch of one rank, stage by stage: embedding, decoder layers, final norm, head.
#pragma once

#include <functional>
#include <string>

#include "harness/types/cut.h"
#include "impl/blocks/context.h"
#include "impl/blocks/embedding.h"

namespace meshparity::impl {

struct DecoderInput {
  at::Tensor ids;                     // [T] int64
  at::Tensor labels;                  // [T] int64, negative = no loss
  std::int64_t vocabulary_begin = 0;  // first row of this rank's vocabulary shard
  bool log_sums = false;              // does the loss need logsumexp of the logits?
  // For multi-token prediction; undefined where the loss has no such term: the next token of the same
  // document, -1 where there is none, and that token's label. [T] int64.
  at::Tensor next_ids, next_labels;
};

// Called with every activation a run may record: "embed", "layers.<i>.mixer", "layers.<i>.ffn" (before the
// residual adds), "norm" (after the final norm), each in residual order. May be null.
using ActivationHook = std::function<void(const std::string& name, const at::Tensor& value)>;

// The residual stream before the first layer, [T, D] in residual order.
at::Tensor decoder_embed(const BlockContext& context, const UnitWeights& embedding, const DecoderInput& input,
                         const ActivationHook& record);

// The residual stream x after the layers; in and out [T, D] in residual order. With `recompute` a layer keeps
// its input alone and runs again in backward; `context` must live until then.
at::Tensor decoder_layers(const BlockContext& context, const ShardedParameters& parameters, Range layers,
                          at::Tensor x, bool recompute, const ActivationHook& record);

// One decoder layer with the weights `w`; in and out [T, D] in residual order.
at::Tensor decoder_layer(const BlockContext& context, const UnitWeights& w, bool full_attention,
                         const at::Tensor& x, const Site& site, const ActivationHook& record);

// The table of the head: `head` is the unit that holds it, which for a tied model is the embedding.
const at::Tensor& head_table(const ModelConfig& config, const UnitWeights& head);

// Final norm and head. `head`: the unit that holds the head's table, which for a tied model is the embedding.
struct DecoderOutput {
  at::Tensor hidden;  // [T, D] after the final norm, in residual order
  HeadOutput head;
};
DecoderOutput decoder_head(const BlockContext& context, const UnitWeights& last, const UnitWeights& head,
                           const DecoderInput& input, const at::Tensor& x, const ActivationHook& record);

}  // namespace meshparity::impl

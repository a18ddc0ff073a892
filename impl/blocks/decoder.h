// The whole model on one micro-batch of one rank: embedding, decoder layers, final norm, head.
#pragma once

#include <functional>
#include <string>

#include "impl/blocks/context.h"
#include "impl/blocks/embedding.h"

namespace meshparity::impl {

struct DecoderInput {
  at::Tensor ids;                     // [T] int64
  at::Tensor labels;                  // [T] int64, negative = no loss
  std::int64_t vocabulary_begin = 0;  // first row of this rank's vocabulary shard
};

// Called with every activation a run may record: "embed", "layers.<i>.mixer", "layers.<i>.ffn" (before the
// residual adds), "norm" (after the final norm), each in residual order. May be null.
using ActivationHook = std::function<void(const std::string& name, const at::Tensor& value)>;

HeadOutput decoder_forward(const BlockContext& context, const ShardedParameters& parameters,
                           const DecoderInput& input, const ActivationHook& record);

}  // namespace meshparity::impl

// Which checkpoint tensors a block takes, and what stands before and behind the layers: embedding with
// images, rotary table, head. Training (model.h) and rollout (rollout/) build on it.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "harness/types/model_config.h"
#include "reference/blocks/attention.h"
#include "reference/blocks/gated_delta_net.h"
#include "reference/blocks/moe.h"
#include "reference/blocks/rope.h"
#include "reference/blocks/vision.h"
#include "reference/document.h"
#include "reference/reference.h"

namespace meshparity::reference {

// Of the layer whose names begin so: "model.layers.3.".
AttentionWeights attention_weights(const TensorMap& w, const std::string& layer);
GatedDeltaNetWeights gated_delta_net_weights(const TensorMap& w, const std::string& layer);
MoeWeights moe_weights(const TensorMap& w, const std::string& layer);

// Token embeddings [T, D]; those of placeholders give way to the rows the tower makes of the images, in
// order.
at::Tensor embed_document(const ModelConfig& config, const TensorMap& w, const Document& document,
                          const VisionNote& note = nullptr);

// positions [3, T] -> tables [T, R/2] in the dtype of the weights.
RotaryTable rope_of(const ModelConfig& config, const TensorMap& w, const at::Tensor& positions);

// [vocab, D]: the embedding's own where it is tied.
const at::Tensor& head_of(const ModelConfig& config, const TensorMap& w);

}  // namespace meshparity::reference

// The whole model on one document: the blocks composed. Read this first, then blocks/.
// Legend: T tokens of the document, D hidden.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "harness/types/model_config.h"
#include "reference/document.h"
#include "reference/reference.h"

namespace meshparity::reference {

// Outputs of a document's blocks by name ("embed", "layers.3.mixer", ...), each [T, D].
using Activations = TensorMap;

// What a caller may look at besides the logits; null = not asked for.
struct Notes {
  Activations* activations = nullptr;
  TensorMap* routes = nullptr;                       // "layers.<i>" [T, k] int64
  std::vector<at::Tensor>* router_logits = nullptr;  // [T, E] of every layer, differentiable
};

// What the model makes of a document, in the dtype of the weights.
struct Forward {
  at::Tensor embeddings;  // [T, D] with images in the places of their placeholders
  at::Tensor hidden;      // [T, D] behind the final norm
  at::Tensor logits;      // [T, vocab]
};

// x = embed(ids), images in their places; per layer x += mixer(norm(x)), x += ffn(norm(x));
// logits = head(norm(x)). T >= 1. Source: qwen35.md 1.2 and 1.8.
Forward forward_document(const ModelConfig& config, const TensorMap& weights, const Document& document,
                         const Notes& notes);

// Logits [T-1, vocab] of the layer that predicts the token after the next: slot t for token t+2. T >= 2.
// Source: qwen35.md 1.9.
at::Tensor forward_mtp(const ModelConfig& config, const TensorMap& weights, const Document& document,
                       const Forward& forward);

// The experts [T, k] that the same layer's router chooses for every token. `has_next`: [T], 1 or 0; a token
// without, as the last one is, sees a zero in the place of the next one's embedding. It predicts nothing.
at::Tensor mtp_routes(const ModelConfig& config, const TensorMap& weights, const Document& document,
                      const Forward& forward, const at::Tensor& has_next);

// Throws InputError naming the first weight that is missing, unexpected or of a wrong shape or dtype; all
// must be float64 or all float32.
void check_weights(const ModelConfig& config, const TensorMap& weights);

}  // namespace meshparity::reference

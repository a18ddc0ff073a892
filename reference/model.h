// The whole text model on one document: the blocks composed. Read this first, then blocks/.
// Legend: T tokens of the document, D hidden.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "harness/types/model_config.h"
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

// x = embed(ids); per layer x += mixer(norm(x)), x += ffn(norm(x)); logits = head(norm(x)).
// token_ids [T], positions [3, T], both int64 -> logits [T, vocab] in the dtype of the weights; T >= 1.
// Source: qwen35.md 1.2.
at::Tensor forward_document(const ModelConfig& config, const TensorMap& weights, const at::Tensor& token_ids,
                            const at::Tensor& positions, const Notes& notes);

// Throws InputError naming the first weight that is missing, unexpected or of a wrong shape or dtype; all
// must be float64 or all float32.
void check_weights(const ModelConfig& config, const TensorMap& weights);

}  // namespace meshparity::reference

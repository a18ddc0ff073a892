// The single-device truth: Qwen3.5 run plainly, every document alone, delta rule token by token.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/model_config.h"

namespace meshparity::reference {

// Keyed by checkpoint name (weights) or by path below /expected (results).
using TensorMap = std::map<std::string, at::Tensor>;

struct RunOptions {
  std::string loss = "token_mean";  // whose gradients are taken: a term or a sum (harness/types/loss_sum.h)
  bool gradients = true;
  int steps = 0;             // AdamW steps; step 1 uses the gradients of the given weights
  bool activations = false;  // also "activations/<name>"
  // Also "trace/weights/<name>" (as given) and, from the second step on, "trace/step<k>/grads/<name>" and
  // "trace/step<k>/activations/<name>": what explains a difference.
  bool trace = false;
  // Also "routes/pass<k>/layers.<i>" [N, k] int64 of a mixture of experts: the experts of every token in the
  // forward pass of step k (1 where there are no steps), in slot order; with the term mtp also of
  // "mtp.layers.0".
  bool routes = false;
  // [N] tokens that are padding, or empty. Such a token stands at its index in the document, and for the
  // routes of multi-token prediction it has no next one and is none.
  std::vector<bool> padding = {};
};

// Runs forward (and backward, and `steps` optimizer steps over all micro-batches) in the dtype of the
// weights. Returns: logits [N,vocab], logprobs [N] (0 where ignored), loss/<term> [] and denominators/<term>
// for every policy and every other term of the loss, grads/<name>, grad_norm [] (always float64),
// step<k>/weights/<name>; with activations also activations/embed, activations/layers.<i>.mixer (mixer output
// before the residual add), activations/layers.<i>.ffn, activations/norm (after the final norm), each [N,
// hidden].
TensorMap run(const ModelConfig& config, const TensorMap& weights, const Batch& batch, const TrainSpec& train,
              const RunOptions& options);

}  // namespace meshparity::reference

// The rank program of rollout: takes the weights over from the ranks of the training mesh (resharding), then
// prefills and decodes the sequences of its data rank on the rollout mesh. Tokens are given; nothing is
// sampled.
#pragma once

#include "harness/types/rollout.h"
#include "impl/train/program.h"

namespace meshparity::impl {

struct RolloutInputs {
  RankInputs train;  // the model, the batch, the weights and how training shards them: mesh and flags
  Mesh mesh;         // of rollout
  RolloutSpec spec;
  // With spec.replay: the experts of every token of the batch, "layers.<i>" [N, k] int64, in slot order.
  const std::map<std::string, at::Tensor>* routes = nullptr;
};

// What this rank emits, in the layout of the rollout mesh with plain flags over rollout_batch(batch):
//   rollout/weights/<name>    its shard after resharding
//   rollout/logits            [T, V_tp] last stage: before temperature; T tokens of its sequences, V_tp its
//   rows
//                             of the vocabulary
//   rollout/logprobs          [T] last stage: of the labels under softmax(logits / temperature); 0 where
//   ignored rollout/sampling_logprobs [T] the same within the smallest set of most probable tokens that holds
//   top_p of
//                             the probability, renormalised; 0 where ignored or outside of it
//   rollout/in_support        [T] int64, 1 where the label is in that set (0 where ignored)
//   rollout/routes/layers.<i> [T, k] int64 of a mixture of experts, on the layer's stage
// The engine has max(train.mesh.world(), mesh.world()) ranks; one that a mesh does not need idles there.
RankOutput run_rollout(const RolloutInputs& inputs, Engine& engine, const Seams& seams);

}  // namespace meshparity::impl

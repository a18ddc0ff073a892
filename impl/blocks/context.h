// What every block is given besides its input and its weights.
#pragma once

#include "harness/types/model_config.h"
#include "impl/blocks/cached_mixer.h"
#include "impl/blocks/context_tables.h"
#include "impl/blocks/packed_tokens.h"
#include "impl/blocks/primitives.h"
#include "impl/blocks/router_loss.h"
#include "impl/parallel/expert.h"
#include "impl/parallel/fully_sharded.h"
#include "impl/parallel/tensor.h"

namespace meshparity::impl {

struct BlockContext {
  const ModelConfig& config;
  const Primitives& primitives;
  TensorParallel tp;
  ExpertParallel expert;
  const PackedTokens* tokens = nullptr;  // of the micro-batch at hand, as this rank holds them
  ContextParallel context;
  std::shared_ptr<RouterLoss> router;  // of the micro-batch; null where the loss has no such term
  CachedMixer* cached = nullptr;       // of the layer at hand, in rollout; null in training
};

}  // namespace meshparity::impl

// One micro-batch as a rank's model takes it: packed tokens, context tables, ids and labels, places of
// padding. Built once and the same in every step. T: tokens of this rank; R: its part of the residual stream.
#pragma once

#include <functional>
#include <vector>

#include "impl/blocks/context_tables.h"
#include "impl/blocks/decoder.h"
#include "impl/blocks/packed_tokens.h"
#include "impl/parallel/plan.h"
#include "impl/parallel/token_layout.h"

namespace meshparity::impl {

struct MicroBatch {
  PackedTokens packed;
  ContextTables context;
  DecoderInput input;
  at::Tensor loss_rows;  // of TokenLoss; of all tokens over uly where the loss is replicated
  std::vector<std::int64_t> residual_sizes;
  // Places of what is not padding, among T and among R; undefined without padding.
  at::Tensor real, residual_real;
  at::Tensor counted_by_routers;  // [T] 1 where a token is no padding; undefined without padding
};

// What a micro-batch is built for.
struct MicroBatchMaker {
  const ModelConfig& config;
  const Mesh& mesh;
  const Flags& flags;
  const Plan& plan;
  at::TensorOptions options;              // dtype and device of the model
  bool sequence = false;                  // the residual stream is cut over tp
  const Batch* next_tokens_of = nullptr;  // the batch, where the loss predicts next tokens
  // Seams; null = leave as it is.
  std::function<void(ContextEdit&)> edit_context;
  std::function<void(PackingEdit&)> edit_packing;

  // Micro-batch `number` of these tokens, all but what depends on the loss: loss_rows, input.log_sums.
  MicroBatch make(const MicroBatchTokens& tokens, std::int64_t number) const;

 private:
  void pack(const MicroBatchTokens& tokens, MicroBatch& made) const;
  void mark_padding(const MicroBatchTokens& tokens, MicroBatch& made) const;
};

// The rows of x that are no padding; `real` undefined: all. What is emitted holds no padding.
at::Tensor without_padding(const at::Tensor& x, const at::Tensor& real);

}  // namespace meshparity::impl

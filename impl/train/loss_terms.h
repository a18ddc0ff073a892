// The terms of a loss that are sums over tokens, on one rank: their weights, values, and gradients by what
// the head hands out. To add a term: its name in harness/types/loss_sum.h, its rows, its value and its
// gradient here; to weigh it otherwise: impl/train/loss.h. Source: design, "Loss". T tokens; everything in
// nats.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "harness/types/loss_sum.h"
#include "impl/train/loss.h"

namespace meshparity::impl {

// What the terms are computed from, or their gradients by it. All [T].
struct TokenValues {
  at::Tensor logprobs;       // of the labels
  at::Tensor log_sums;       // logsumexp of the logits; undefined unless needed
  at::Tensor next_logprobs;  // of the next token's labels, by multi-token prediction; undefined unless needed
};

class TokenLoss {
 public:
  explicit TokenLoss(LossSum sum);

  const LossSum& sum() const { return sum_; }
  bool log_sums() const { return log_sums_row_ >= 0; }  // is logsumexp of the logits needed?
  bool next_logprobs() const { return mtp_row_ >= 0; }  // is multi-token prediction needed?

  // [rows, T]: the weights of every term of tokens (the policies first, in their order), then what the
  // formulas need besides. Tokens are independent, so rows of other ranks can be gathered along T.
  at::Tensor rows(const Normaliser& normaliser, const Batch& batch, const MicroBatchTokens& tokens,
                  std::int64_t micro_batch, at::ScalarType dtype) const;

  // What these tokens add to each term, in the order of sum().reported(); 0 for terms of the router.
  at::Tensor values(const at::Tensor& rows, const TokenValues& of) const;

  // Of the whole sum: d loss / d each of what it is computed from.
  TokenValues gradients(const at::Tensor& rows, const TokenValues& of) const;

 private:
  LossSum sum_;
  std::vector<std::string> weighed_;  // terms with a row of weights
  // Rows of the terms that are no policy; -1 where the sum has none.
  std::int64_t policy_gradient_row_ = -1, log_sums_row_ = -1, sampled_row_ = -1, mtp_row_ = -1;
};

}  // namespace meshparity::impl

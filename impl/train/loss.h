// Loss normalisation: which token counts how much, under every policy, from counts over the whole batch. A
// rank-local count is a fault, never a policy. To add a policy: its name in harness/types/batch.h
// (kLossPolicies), a case in weight() and denominator(). CE in nats. Source: design, "Loss"; qwen35.md 5.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "harness/types/batch.h"
#include "impl/parallel/token_layout.h"

namespace meshparity::impl {

// Valid labels per document [D] and per micro-batch [M]: this rank's after construction, the whole batch's
// after globalise().
struct Normaliser {
  std::vector<double> documents;
  std::vector<double> micro_batches;
  double num_tokens = 0;  // the X of the num_tokens policy
  // Sums counts over the ranks that hold different tokens: dp x fsdp (later x cp), never tp, which sees the
  // same ones.
  std::function<at::Tensor(const at::Tensor& counts)> sum_over_data_ranks;

  // Counts the labels this rank holds; document and micro-batch counts have the batch's global sizes.
  static Normaliser count(const TokenLayout& layout, std::int64_t documents, double num_tokens);
  // Makes the counts global, in one collective. Before the first backward.
  void globalise();

  double tokens() const;  // N, valid labels of the whole batch
  // Weight of one valid token's CE in the loss: loss = sum over valid tokens of weight * CE. 0 where a count
  // is 0. An entry, so that another weighting of micro-batches or documents is a decorator.
  std::function<double(const Normaliser& counts, const std::string& policy, std::int64_t micro_batch,
                       std::int64_t document)>
      weight = policy_weight;
  static double policy_weight(const Normaliser& counts, const std::string& policy, std::int64_t micro_batch,
                              std::int64_t document);
  // token_mean [] N; sum [] 1; sequence_mean [D] n_d; micro_batch_mean [M] N_m; num_tokens [] X. float64.
  at::Tensor denominator(const std::string& policy) const;
  // [policies, T] weights of the tokens of micro-batch m in the order of kLossPolicies, 0 where there is no
  // label.
  at::Tensor weights(const MicroBatchTokens& tokens, std::int64_t micro_batch, at::ScalarType dtype) const;
};

// Row of `weights` that belongs to a policy. Throws InputError for a policy text does not have.
std::int64_t policy_index(const std::string& policy);

}  // namespace meshparity::impl

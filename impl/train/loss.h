// Loss normalisation: which token counts how much, under every policy, from counts over the whole batch. A
// rank-local count is a fault, never a policy. To add a policy: its name in harness/types/batch.h
// (kLossPolicies), a case in weight() and denominator(). What else a loss may hold: loss_terms.h. CE in nats.
// Source: design, "Loss"; qwen35.md 5.
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
  // Tokens per micro-batch [M], padding never counted, and routers that decide on each of them (one per
  // layer; 0: the loss has no term of the router, and these counts stay this rank's).
  std::vector<double> micro_batch_tokens;
  std::int64_t routers = 0;
  // Valid targets of multi-token prediction; counted over all ranks where the loss has that term.
  double next_labels = 0;
  bool counts_next_labels = false;
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
  // Weight of one (layer, token) row in a term of the router: 1 over the rows of the micro-batch and over the
  // micro-batches that hold tokens. Of the value as well as of the gradient.
  std::function<double(const Normaliser& counts, const std::string& term, std::int64_t micro_batch)>
      router_weight = router_row_weight;
  static double router_row_weight(const Normaliser& counts, const std::string& term,
                                  std::int64_t micro_batch);
  // What share of a row's gradient a rank carries: `copies` ranks see the same row, and their gradients are
  // summed.
  std::function<double(const Normaliser& counts, const std::string& term, int copies)> router_share =
      equal_share;
  static double equal_share(const Normaliser& counts, const std::string& term, int copies);
  double router_rows(std::int64_t micro_batch) const;  // (layer, token) pairs
  // token_mean, policy_gradient, lm_z [] N; mtp [] N'; sum [] 1; sequence_mean [D] n_d; micro_batch_mean [M]
  // N_m; num_tokens [] X; router_z, aux [M] rows of the router. float64.
  at::Tensor denominator(const std::string& term) const;
  // [terms, T] weights of the tokens of micro-batch m, 0 where there is no label.
  at::Tensor weights(const std::vector<std::string>& terms, const MicroBatchTokens& tokens,
                     std::int64_t micro_batch, at::ScalarType dtype) const;
};

// Place of a policy among kLossPolicies. Throws InputError for a policy text does not have.
std::int64_t policy_index(const std::string& policy);

}  // namespace meshparity::impl

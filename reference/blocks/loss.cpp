#include "reference/blocks/loss.h"

#include <algorithm>
#include <vector>

#include "harness/types/error.h"

namespace meshparity::reference {
namespace {

double valid_labels(const Batch& batch, Range tokens) {
  const auto begin = batch.labels.begin();
  return static_cast<double>((tokens.end - tokens.begin) -
                             std::count(begin + tokens.begin, begin + tokens.end, kIgnoreLabel));
}

// The parts of the batch whose means are averaged: all of it, its documents or its micro-batches.
std::vector<Range> parts_of(const std::string& policy, const Batch& batch) {
  std::vector<Range> parts;
  if (policy == "sequence_mean") {
    for (std::int64_t d = 0; d < batch.documents(); ++d) parts.push_back(batch.document(d));
  } else if (policy == "micro_batch_mean") {
    for (std::int64_t m = 0; m < batch.micro_batches(); ++m) parts.push_back(batch.micro_batch_tokens(m));
  } else if (policy == "token_mean" || policy == "sum" || policy == "num_tokens") {
    parts.push_back({0, batch.tokens()});
  } else {
    throw InputError("unknown loss policy '" + policy + "'");
  }
  return parts;
}

std::vector<double> divisors(const std::string& policy, const Batch& batch, const TrainSpec& train) {
  if (policy == "sum") return {1.0};
  if (policy == "num_tokens") return {train.num_tokens};
  std::vector<double> counts;
  for (Range part : parts_of(policy, batch)) counts.push_back(valid_labels(batch, part));
  return counts;
}

}  // namespace

at::Tensor label_logprobs(const at::Tensor& logits, const at::Tensor& labels) {
  const at::Tensor valid = labels != kIgnoreLabel;
  const at::Tensor index = at::where(valid, labels, 0).unsqueeze(1);
  const at::Tensor logprobs = at::log_softmax(logits, -1).gather(1, index).squeeze(1);
  return at::where(valid, logprobs, 0.0);
}

at::Tensor policy_gradient(const at::Tensor& logprobs, const at::Tensor& advantages,
                           const at::Tensor& old_logprobs) {
  const at::Tensor ratio = (logprobs - old_logprobs).exp();
  return -at::minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages);
}

at::Tensor loss_denominators(const std::string& term, const Batch& batch, const TrainSpec& train,
                             std::int64_t routers) {
  if (term == "router_z" || term == "aux") {
    std::vector<double> rows;
    for (std::int64_t m = 0; m < batch.micro_batches(); ++m)
      rows.push_back(static_cast<double>(routers * batch.micro_batch_tokens(m).size()));
    return at::tensor(rows, at::kDouble);
  }
  if (term == "mtp") {
    double targets = 0;  // slot t is judged by the label of slot t+1 of its document
    for (std::int64_t d = 0; d < batch.documents(); ++d)
      targets += valid_labels(batch, {batch.document(d).begin + 1, batch.document(d).end});
    return at::scalar_tensor(targets, at::kDouble);
  }
  const std::string policy = term == "policy_gradient" || term == "lm_z" ? "token_mean" : term;
  const at::Tensor values = at::tensor(divisors(policy, batch, train), at::kDouble);
  return policy == "sequence_mean" || policy == "micro_batch_mean" ? values : values.squeeze(0);
}

at::Tensor loss_weights(const std::string& policy, const Batch& batch, const TrainSpec& train) {
  const std::vector<Range> parts = parts_of(policy, batch);
  const std::vector<double> divisor = divisors(policy, batch, train);
  const auto counted =
      std::count_if(parts.begin(), parts.end(), [&](Range p) { return valid_labels(batch, p) > 0; });
  std::vector<double> weights(batch.labels.size(), 0.0);
  for (std::size_t p = 0; p < parts.size(); ++p) {
    for (std::int64_t t = parts[p].begin; t < parts[p].end; ++t) {
      if (batch.labels[t] != kIgnoreLabel) weights[t] = 1.0 / (divisor[p] * static_cast<double>(counted));
    }
  }
  return at::tensor(weights, at::kDouble);
}

}  // namespace meshparity::reference

#include "impl/train/loss.h"

#include <numeric>

#include "harness/types/error.h"

namespace meshparity::impl {
namespace {

double inverse(double count) {
  return count > 0 ? 1 / count : 0;
}

std::int64_t non_empty(const std::vector<double>& counts) {
  std::int64_t n = 0;
  for (double c : counts) n += c > 0;
  return n;
}

}  // namespace

Normaliser Normaliser::count(const TokenLayout& layout, std::int64_t document_count, double num_tokens) {
  Normaliser n;
  n.num_tokens = num_tokens;
  n.documents.assign(document_count, 0);
  for (const auto& part : layout.micro_batches) {
    double valid = 0;
    n.micro_batch_tokens.push_back(static_cast<double>(part.real().size()));
    for (std::int64_t t = 0; t < part.tokens(); ++t) {
      if (part.labels[t] < 0) continue;
      ++n.documents[part.documents[t]];
      ++valid;
    }
    n.micro_batches.push_back(valid);
    for (const std::int64_t label : next_tokens(*layout.batch, part).labels) n.next_labels += label >= 0;
  }
  return n;
}

void Normaliser::globalise() {
  std::vector<double> all(documents);
  all.insert(all.end(), micro_batches.begin(), micro_batches.end());
  if (counts_next_labels) all.push_back(next_labels);
  if (routers > 0) all.insert(all.end(), micro_batch_tokens.begin(), micro_batch_tokens.end());
  const at::Tensor sums = sum_over_data_ranks(at::tensor(all, at::kDouble)).contiguous();
  const double* data = sums.const_data_ptr<double>();
  std::copy(data, data + documents.size(), documents.begin());
  data += documents.size();
  std::copy(data, data + micro_batches.size(), micro_batches.begin());
  data += micro_batches.size();
  if (counts_next_labels) next_labels = *data++;
  if (routers > 0) std::copy(data, data + micro_batch_tokens.size(), micro_batch_tokens.begin());
}

double Normaliser::tokens() const {
  return std::accumulate(micro_batches.begin(), micro_batches.end(), 0.0);
}

double Normaliser::policy_weight(const Normaliser& n, const std::string& policy, std::int64_t micro_batch,
                                 std::int64_t document) {
  if (policy == "token_mean" || policy == "policy_gradient" || policy == "lm_z") return inverse(n.tokens());
  if (policy == "mtp") return inverse(n.next_labels);
  if (policy == "sum") return 1;
  if (policy == "sequence_mean") return inverse(n.documents[document]) * inverse(non_empty(n.documents));
  if (policy == "micro_batch_mean")
    return inverse(n.micro_batches[micro_batch]) * inverse(non_empty(n.micro_batches));
  if (policy == "num_tokens") return inverse(n.num_tokens);
  throw InputError("loss policy '" + policy + "' is unknown");
}

double Normaliser::router_rows(std::int64_t micro_batch) const {
  return static_cast<double>(routers) * micro_batch_tokens[micro_batch];
}

double Normaliser::router_row_weight(const Normaliser& n, const std::string&, std::int64_t micro_batch) {
  return inverse(n.router_rows(micro_batch)) * inverse(non_empty(n.micro_batch_tokens));
}

double Normaliser::equal_share(const Normaliser&, const std::string&, int copies) {
  return 1.0 / copies;
}

at::Tensor Normaliser::denominator(const std::string& policy) const {
  const auto scalar = [](double v) { return at::scalar_tensor(v, at::kDouble); };
  if (policy == "token_mean" || policy == "policy_gradient" || policy == "lm_z") return scalar(tokens());
  if (policy == "router_z" || policy == "aux") {
    at::Tensor rows = at::empty({static_cast<std::int64_t>(micro_batch_tokens.size())}, at::kDouble);
    for (std::int64_t m = 0; m < rows.numel(); ++m) rows.data_ptr<double>()[m] = router_rows(m);
    return rows;
  }
  if (policy == "mtp") return scalar(next_labels);
  if (policy == "sum") return scalar(1);
  if (policy == "sequence_mean") return at::tensor(documents, at::kDouble);
  if (policy == "micro_batch_mean") return at::tensor(micro_batches, at::kDouble);
  if (policy == "num_tokens") return scalar(num_tokens);
  throw InputError("loss policy '" + policy + "' is unknown");
}

at::Tensor Normaliser::weights(const std::vector<std::string>& terms, const MicroBatchTokens& tokens,
                               std::int64_t micro_batch, at::ScalarType dtype) const {
  const std::int64_t n = tokens.tokens();
  at::Tensor out = at::zeros({static_cast<std::int64_t>(terms.size()), n}, at::kDouble);
  double* data = out.data_ptr<double>();
  for (std::size_t p = 0; p < terms.size(); ++p) {
    std::int64_t document = -1;
    double value = 0;
    for (std::int64_t t = 0; t < n; ++t) {
      if (tokens.labels[t] < 0) continue;
      if (tokens.documents[t] != document) {
        document = tokens.documents[t];
        value = weight(*this, terms[p], micro_batch, document);
      }
      data[p * n + t] = value;
    }
  }
  return out.to(dtype);
}

std::int64_t policy_index(const std::string& policy) {
  for (std::size_t i = 0; i < kLossPolicies.size(); ++i)
    if (policy == kLossPolicies[i]) return static_cast<std::int64_t>(i);
  throw InputError("loss policy '" + policy + "' is unknown");
}

}  // namespace meshparity::impl

#include "impl/train/loss_terms.h"

namespace meshparity::impl {
namespace {

constexpr double kClipBelow = 0.8, kClipAbove = 1.2;

const std::int64_t kPolicies = static_cast<std::int64_t>(kLossPolicies.size());

}  // namespace

TokenLoss::TokenLoss(LossSum sum)
    : sum_(std::move(sum)), weighed_(kLossPolicies.begin(), kLossPolicies.end()) {
  const auto add = [&](const char* name) {
    if (!sum_.has(name)) return std::int64_t{-1};
    weighed_.emplace_back(name);
    return static_cast<std::int64_t>(weighed_.size()) - 1;
  };
  policy_gradient_row_ = add("policy_gradient");
  log_sums_row_ = add("lm_z");
  if (policy_gradient_row_ >= 0) sampled_row_ = static_cast<std::int64_t>(weighed_.size());
  if (sum_.has("mtp")) mtp_row_ = static_cast<std::int64_t>(weighed_.size()) + (sampled_row_ >= 0 ? 2 : 0);
}

at::Tensor TokenLoss::rows(const Normaliser& normaliser, const Batch& batch, const MicroBatchTokens& tokens,
                           std::int64_t micro_batch, at::ScalarType dtype) const {
  std::vector<at::Tensor> parts = {normaliser.weights(weighed_, tokens, micro_batch, dtype)};
  const std::int64_t n = tokens.tokens();
  if (sampled_row_ >= 0) {
    at::Tensor sampled = at::zeros({2, n}, at::kDouble);
    double* data = sampled.data_ptr<double>();
    for (std::int64_t t = 0; t < n; ++t) {
      if (tokens.global[t] == kPadding) continue;
      data[t] = batch.advantage(tokens.global[t]);
      data[n + t] = batch.old_logprob(tokens.global[t]);
    }
    parts.push_back(sampled.to(dtype));
  }
  if (mtp_row_ >= 0) {
    const NextTokens next = next_tokens(batch, tokens);
    at::Tensor weights = at::zeros({1, n}, at::kDouble);
    for (std::int64_t t = 0; t < n; ++t)
      if (next.labels[t] >= 0)
        weights.data_ptr<double>()[t] =
            normaliser.weight(normaliser, "mtp", micro_batch, tokens.documents[t]);
    parts.push_back(weights.to(dtype));
  }
  return at::cat(parts);
}

at::Tensor TokenLoss::values(const at::Tensor& rows, const TokenValues& of) const {
  const at::Tensor& logprobs = of.logprobs;
  std::vector<at::Tensor> values = {at::mv(rows.slice(0, 0, kPolicies), logprobs).neg()};
  for (const std::string& name : sum_.reported()) {
    at::Tensor value;
    if (name == "policy_gradient") {
      const at::Tensor advantage = rows.select(0, sampled_row_);
      const at::Tensor ratio = (logprobs - rows.select(0, sampled_row_ + 1)).exp();
      const at::Tensor least =
          at::minimum(ratio * advantage, ratio.clamp(kClipBelow, kClipAbove) * advantage);
      value = at::dot(rows.select(0, policy_gradient_row_), least).neg();
    } else if (name == "lm_z") {
      value = at::dot(rows.select(0, log_sums_row_), of.log_sums * of.log_sums);
    } else if (name == "mtp") {
      value = at::dot(rows.select(0, mtp_row_), of.next_logprobs).neg();
    } else if (name == "router_z" || name == "aux") {
      value = at::zeros({}, rows.options());
    }
    if (value.defined()) values.push_back(value.view({1}));
  }
  return at::cat(values);
}

TokenValues TokenLoss::gradients(const at::Tensor& rows, const TokenValues& of) const {
  const at::Tensor& logprobs = of.logprobs;
  TokenValues out;
  out.logprobs = at::zeros_like(logprobs);
  for (std::int64_t p = 0; p < kPolicies; ++p)
    if (const double weight = sum_.weight(kLossPolicies[p]); weight != 0)
      out.logprobs.sub_(rows.select(0, p), weight);
  if (policy_gradient_row_ >= 0) {
    const at::Tensor advantage = rows.select(0, sampled_row_);
    const at::Tensor ratio = (logprobs - rows.select(0, sampled_row_ + 1)).exp();
    // Beyond the clip the clipped side is the smaller one, and constant.
    const at::Tensor held = advantage.gt(0)
                                .logical_and(ratio.gt(kClipAbove))
                                .logical_or(advantage.lt(0).logical_and(ratio.lt(kClipBelow)));
    out.logprobs.sub_((rows.select(0, policy_gradient_row_) * ratio * advantage).masked_fill_(held, 0),
                      sum_.weight("policy_gradient"));
  }
  if (log_sums_row_ >= 0)
    out.log_sums = (rows.select(0, log_sums_row_) * of.log_sums).mul_(2 * sum_.weight("lm_z"));
  if (mtp_row_ >= 0) out.next_logprobs = rows.select(0, mtp_row_) * -sum_.weight("mtp");
  return out;
}

}  // namespace meshparity::impl

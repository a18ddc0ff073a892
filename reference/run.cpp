// Forward, backward and optimizer steps over a whole batch, document by document. See reference.h.
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "harness/types/error.h"
#include "harness/types/loss_sum.h"
#include "reference/blocks/loss.h"
#include "reference/blocks/optimizer.h"
#include "reference/blocks/router_loss.h"
#include "reference/model.h"
#include "reference/reference.h"

namespace meshparity::reference {
namespace {

// Results of the whole batch with one set of weights.
struct Pass {
  at::Tensor logits;      // [N, vocab]
  at::Tensor logprobs;    // [N]
  TensorMap terms;        // [] by name: the terms of the loss that are no policy
  TensorMap gradients;    // empty unless asked for
  TensorMap activations;  // empty unless asked for
  TensorMap routes;       // empty unless asked for
};

// Every token's part of the loss: what a cross entropy counts in the sum of all policies, and of policy
// gradients.
struct TokenTerms {
  TokenTerms(const LossSum& sum, const Batch& batch, const TrainSpec& train)
      : loss(sum), cross_entropy(at::zeros({batch.tokens()}, at::kDouble)) {
    for (const LossSum::Term& term : sum.terms)
      if (std::find(kLossPolicies.begin(), kLossPolicies.end(), term.name) != kLossPolicies.end())
        cross_entropy = cross_entropy + term.weight * loss_weights(term.name, batch, train);
    mean = loss_weights("token_mean", batch, train);
    mtp_targets = loss_denominators("mtp", batch, train).item<double>();
    std::vector<double> advantage, old;
    for (std::int64_t t = 0; t < batch.tokens(); ++t)
      advantage.push_back(batch.advantage(t)), old.push_back(batch.old_logprob(t));
    advantages = at::tensor(advantage, at::kDouble), old_logprobs = at::tensor(old, at::kDouble);
  }

  // The loss of some tokens; adds the terms that are no policy to `terms`. logits [T, vocab], logprobs [T].
  at::Tensor of(Range tokens, const at::Tensor& logits, const at::Tensor& logprobs, TensorMap& terms) const {
    const auto part = [&](const at::Tensor& all) {
      return all.narrow(0, tokens.begin, tokens.size()).to(logprobs.dtype());
    };
    at::Tensor sum = -(part(cross_entropy) * logprobs).sum();
    const auto add = [&](const char* name, const at::Tensor& value) {
      terms[name] = terms.count(name) ? terms[name] + value.detach() : value.detach();
      sum = sum + loss.weight(name) * value;
    };
    if (loss.has("policy_gradient"))
      add("policy_gradient",
          (part(mean) * policy_gradient(logprobs, part(advantages), part(old_logprobs))).sum());
    if (loss.has("lm_z")) add("lm_z", (part(mean) * at::logsumexp(logits, {-1}).square()).sum());
    return sum;
  }

  // The term mtp of one document: slot t has the label of slot t+1. logits [T-1, vocab], labels [T].
  at::Tensor of_mtp(const at::Tensor& logits, const at::Tensor& labels, TensorMap& terms) const {
    const at::Tensor logprobs = label_logprobs(logits, labels.narrow(0, 1, logits.size(0)));
    const at::Tensor share = -logprobs.sum() / std::max(1.0, mtp_targets);
    terms["mtp"] = terms.at("mtp") + share.detach();
    return loss.weight("mtp") * share;
  }

  LossSum loss;
  double mtp_targets = 0;                                    // of the whole batch
  at::Tensor cross_entropy, mean, advantages, old_logprobs;  // [N]
};

// The router's terms of one micro-batch, in the mean over the micro-batches that hold tokens. `layers`: the
// logits of its documents, layer by layer.
at::Tensor router_terms(const LossSum& loss, const ModelConfig& config, const std::vector<at::Tensor>& layers,
                        std::int64_t micro_batches, TensorMap& terms) {
  at::Tensor sum = at::zeros({}, layers[0].options());
  const auto add = [&](const char* name, const at::Tensor& value) {
    const at::Tensor share = value / static_cast<double>(micro_batches);
    terms[name] = terms.count(name) ? terms[name] + share.detach() : share.detach();
    sum = sum + loss.weight(name) * share;
  };
  if (loss.has("router_z")) add("router_z", router_z_loss(layers));
  if (loss.has("aux")) add("aux", load_balancing_loss(layers, config.num_experts_per_tok));
  return sum;
}

// Documents whose losses belong together: what a router's terms are a mean over is a micro-batch; everything
// else is a sum over tokens, so that backward can run document by document and one graph is alive at a time.
std::vector<Range> document_groups(const Batch& batch, bool by_micro_batch) {
  std::vector<Range> groups;
  if (!by_micro_batch)
    for (std::int64_t d = 0; d < batch.documents(); ++d) groups.push_back({d, d + 1});
  for (std::int64_t m = 0; by_micro_batch && m < batch.micro_batches(); ++m) {
    const Range rows = batch.micro_batch_rows(m);
    const Range documents = {batch.row_offsets[rows.begin], batch.row_offsets[rows.end]};
    if (documents.size() > 0) groups.push_back(documents);
  }
  return groups;
}

// Padding stands at its index in the document, whatever images stand before it. positions [3, T].
at::Tensor with_padding(const at::Tensor& positions, const std::vector<bool>& padding, Range tokens) {
  if (padding.empty()) return positions;
  at::Tensor padded = positions.clone();
  for (std::int64_t t = tokens.begin; t < tokens.end; ++t)
    if (padding[t]) padded.select(1, t - tokens.begin).fill_(t - tokens.begin);
  return padded;
}

// [T] 1 where the next token of the document is one and neither is padding.
at::Tensor has_next(const std::vector<bool>& padding, Range tokens) {
  std::vector<double> next;
  for (std::int64_t t = tokens.begin; t < tokens.end; ++t)
    next.push_back(t + 1 < tokens.end && (padding.empty() || (!padding[t] && !padding[t + 1])) ? 1 : 0);
  return at::tensor(next, at::kDouble);
}

Pass run_batch(const ModelConfig& config, const TensorMap& weights, const Batch& batch,
               const TokenTerms& token_terms, bool gradients, bool activations, const RunOptions& asked) {
  const bool routes = asked.routes;
  const at::AutoGradMode record(gradients);
  TensorMap leaves;
  for (const auto& [name, weight] : weights) leaves[name] = weight.detach().requires_grad_(gradients);

  const at::TensorOptions options = weights.begin()->second.options();
  const at::Tensor labels = at::tensor(batch.labels, at::kLong);
  std::vector<at::Tensor> logits, logprobs;
  std::map<std::string, std::vector<at::Tensor>> noted, routed;
  Pass pass;
  const bool of_router = token_terms.loss.of_router(), of_mtp = token_terms.loss.has("mtp");
  if (of_mtp) pass.terms["mtp"] = at::zeros({}, options);
  const std::vector<Range> groups = document_groups(batch, of_router);
  for (const Range& group : groups) {
    at::Tensor loss = at::zeros({}, options);
    std::vector<at::Tensor> router_logits;
    for (std::int64_t d = group.begin; d < group.end; ++d) {
      const Range tokens = batch.document(d);
      if (tokens.size() == 0) continue;
      Document document = document_of(config, batch, d, options);
      document.positions = with_padding(document.positions, asked.padding, tokens);
      const at::Tensor document_labels = labels.narrow(0, tokens.begin, tokens.size());
      Activations document_activations;
      TensorMap document_routes;
      const Forward forward =
          forward_document(config, leaves, document,
                           {activations ? &document_activations : nullptr,
                            routes ? &document_routes : nullptr, of_router ? &router_logits : nullptr});
      const at::Tensor document_logprobs = label_logprobs(forward.logits, document_labels);
      loss = loss + token_terms.of(tokens, forward.logits, document_logprobs, pass.terms);
      if (of_mtp && tokens.size() > 1)
        loss = loss + token_terms.of_mtp(forward_mtp(config, leaves, document, forward), document_labels,
                                         pass.terms);
      if (of_mtp && routes && config.is_moe())
        document_routes["mtp.layers.0"] = mtp_routes(config, leaves, document, forward,
                                                     has_next(asked.padding, tokens).to(options.dtype()));
      logits.push_back(forward.logits.detach());
      logprobs.push_back(document_logprobs.detach());
      for (const auto& [name, value] : document_activations) noted[name].push_back(value);
      for (const auto& [name, value] : document_routes) routed[name].push_back(value);
    }
    if (of_router)
      loss = loss + router_terms(token_terms.loss, config, router_logits,
                                 static_cast<std::int64_t>(groups.size()), pass.terms);
    if (gradients) loss.backward();
  }

  pass.logits = at::cat(logits), pass.logprobs = at::cat(logprobs);
  for (const auto& [name, parts] : noted) pass.activations[name] = at::cat(parts);
  for (const auto& [name, parts] : routed) pass.routes[name] = at::cat(parts);
  if (gradients) {
    for (const auto& [name, leaf] : leaves) {
      // What no token reached has no gradient to autograd; to the model its gradient is zero.
      pass.gradients[name] = leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf.detach());
    }
  }
  return pass;
}

}  // namespace

TensorMap run(const ModelConfig& config, const TensorMap& weights, const Batch& batch, const TrainSpec& train,
              const RunOptions& options) {
  check_weights(config, weights);
  batch.validate(batch.name, config);
  if (batch.tokens() == 0) throw InputError(batch.name, "token_ids", "the batch has no token");
  const LossSum loss = parse_loss(options.loss);
  if (const std::string no = loss_refusal(loss, config); !no.empty()) throw InputError(no);
  const TokenTerms token_terms(loss, batch, train);

  const bool gradients = options.gradients || options.steps > 0;
  Pass pass = run_batch(config, weights, batch, token_terms, gradients, options.activations, options);

  TensorMap results;
  const auto keep_routes = [&results, &pass](int step) {
    for (const auto& [name, experts] : pass.routes)
      results["routes/pass" + std::to_string(step) + "/" + name] = experts;
  };
  keep_routes(1);
  results["logits"] = pass.logits;
  results["logprobs"] = pass.logprobs;
  for (const char* policy : kLossPolicies) {
    const at::Tensor weight = loss_weights(policy, batch, train).to(pass.logprobs.dtype());
    results[std::string("loss/") + policy] = -(weight * pass.logprobs).sum();
    results[std::string("denominators/") + policy] = loss_denominators(policy, batch, train);
  }
  for (const auto& [term, value] : pass.terms) {
    results["loss/" + term] = value;
    results["denominators/" + term] = loss_denominators(term, batch, train, config.num_hidden_layers);
  }
  for (const auto& [name, value] : pass.activations) results["activations/" + name] = value;
  if (options.gradients) {
    for (const auto& [name, gradient] : pass.gradients) results["grads/" + name] = gradient;
    results["grad_norm"] = global_norm(pass.gradients);
  }

  if (options.trace)
    for (const auto& [name, weight] : weights) results["trace/weights/" + name] = weight;
  AdamW optimizer(train);
  TensorMap current = weights;
  for (int step = 1; step <= options.steps; ++step) {
    if (step > 1) {
      pass = run_batch(config, current, batch, token_terms, /*gradients=*/true, options.trace, options);
      keep_routes(step);
      const std::string trace = "trace/step" + std::to_string(step) + "/";
      for (const auto& [name, value] : pass.activations) results[trace + "activations/" + name] = value;
      if (options.trace)
        for (const auto& [name, gradient] : pass.gradients) results[trace + "grads/" + name] = gradient;
    }
    const at::Tensor scale = clip_scale(global_norm(pass.gradients), train.max_grad_norm);
    TensorMap clipped;
    for (const auto& [name, gradient] : pass.gradients) clipped[name] = gradient * scale;
    current = optimizer.step(current, clipped);
    for (const auto& [name, weight] : current) {
      results["step" + std::to_string(step) + "/weights/" + name] = weight;
    }
  }
  return results;
}

}  // namespace meshparity::reference

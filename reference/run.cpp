// Forward, backward and optimizer steps over a whole batch, document by document. See reference.h.
#include <ATen/core/grad_mode.h>

#include "harness/types/error.h"
#include "reference/blocks/loss.h"
#include "reference/blocks/optimizer.h"
#include "reference/model.h"
#include "reference/reference.h"

namespace meshparity::reference {
namespace {

// Positions of a document, [3, T]: the batch's own, or the index in the document on all three axes.
at::Tensor document_positions(const Batch& batch, Range tokens) {
  if (batch.position_ids.empty()) return at::arange(tokens.size(), at::kLong).expand({3, tokens.size()});
  return at::tensor(batch.position_ids, at::kLong)
      .view({3, batch.tokens()})
      .narrow(1, tokens.begin, tokens.size());
}

// Results of the whole batch with one set of weights.
struct Pass {
  at::Tensor logits;      // [N, vocab]
  at::Tensor logprobs;    // [N]
  TensorMap gradients;    // empty unless asked for
  TensorMap activations;  // empty unless asked for
  TensorMap routes;       // empty unless asked for
};

// Backward runs document by document: the loss is a sum over tokens, so gradients add up and only one
// document's graph is alive at a time.
Pass run_batch(const ModelConfig& config, const TensorMap& weights, const Batch& batch,
               const at::Tensor& loss_weight, bool gradients, bool activations, bool routes) {
  const at::AutoGradMode record(gradients);
  TensorMap leaves;
  for (const auto& [name, weight] : weights) leaves[name] = weight.detach().requires_grad_(gradients);

  const at::Tensor ids = at::tensor(batch.token_ids, at::kLong), labels = at::tensor(batch.labels, at::kLong);
  std::vector<at::Tensor> logits, logprobs;
  std::map<std::string, std::vector<at::Tensor>> noted, routed;
  for (std::int64_t d = 0; d < batch.documents(); ++d) {
    const Range tokens = batch.document(d);
    if (tokens.size() == 0) continue;
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, tokens.begin, tokens.size()); };
    Activations document_activations;
    TensorMap document_routes;
    const at::Tensor document_logits = forward_document(
        config, leaves, part(ids), document_positions(batch, tokens),
        {activations ? &document_activations : nullptr, routes ? &document_routes : nullptr});
    const at::Tensor document_logprobs = label_logprobs(document_logits, part(labels));
    if (gradients) (-(part(loss_weight).to(document_logprobs.dtype()) * document_logprobs).sum()).backward();
    logits.push_back(document_logits.detach());
    logprobs.push_back(document_logprobs.detach());
    for (const auto& [name, value] : document_activations) noted[name].push_back(value);
    for (const auto& [name, value] : document_routes) routed[name].push_back(value);
  }

  Pass pass{at::cat(logits), at::cat(logprobs), {}, {}, {}};
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
  batch.validate(batch.name, config.vocab_size);
  if (batch.tokens() == 0) throw InputError(batch.name, "token_ids", "the batch has no token");
  const at::Tensor loss_weight = loss_weights(options.loss, batch, train);

  const bool gradients = options.gradients || options.steps > 0;
  Pass pass = run_batch(config, weights, batch, loss_weight, gradients, options.activations, options.routes);

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
      pass =
          run_batch(config, current, batch, loss_weight, /*gradients=*/true, options.trace, options.routes);
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

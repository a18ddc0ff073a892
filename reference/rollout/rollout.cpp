// Sequence after sequence: the prompt in chunks, then token by token. See rollout.h.
#include "reference/rollout/rollout.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "harness/types/error.h"
#include "reference/layer_weights.h"
#include "reference/model.h"
#include "reference/rollout/sequence.h"

namespace meshparity::reference {
namespace {

SequenceInputs inputs_of(const ModelConfig& config, const TensorMap& weights, const Batch& batch,
                         std::int64_t d, const TensorMap& routes) {
  const Document document = document_of(config, batch, d, weights.at("model.embed_tokens.weight").options());
  SequenceInputs inputs = {
      document.token_ids, embed_document(config, weights, document), document.positions, {}};
  const Range tokens = batch.document(d);
  for (const auto& [layer, experts] : routes)
    inputs.replayed[layer] = experts.narrow(0, tokens.begin, tokens.size());
  return inputs;
}

void check_routes(const ModelConfig& config, const Batch& batch, const TensorMap& routes) {
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string layer = "layers." + std::to_string(i);
    const auto found = routes.find(layer);
    if (found == routes.end()) throw InputError(batch.name, "routes/" + layer, "missing: replay needs it");
    const at::Tensor& experts = found->second;
    const std::vector<std::int64_t> shape = {batch.tokens(), config.num_experts_per_tok};
    if (experts.scalar_type() != at::kLong || experts.sizes() != at::IntArrayRef(shape))
      throw InputError(batch.name, "routes/" + layer, "must be int64 " + shape_text(shape));
    if (experts.numel() &&
        (experts.min().item<std::int64_t>() < 0 || experts.max().item<std::int64_t>() >= config.num_experts))
      throw InputError(batch.name, "routes/" + layer, "names an expert that the model has not");
  }
}

// A sequence as far as it has come, and what came of it.
struct Progress {
  Cache cache;
  std::vector<Decoded> parts;
};

void go_on(const ModelConfig& config, const TensorMap& weights, const SequenceInputs& inputs,
           std::int64_t end, std::int64_t at_once, Progress& progress) {
  while (progress.cache.tokens < end) {
    const std::int64_t begin = progress.cache.tokens;
    progress.parts.push_back(
        advance(config, weights, inputs, {begin, std::min(end, begin + at_once)}, progress.cache));
  }
}

// Whether the first tokens of two sequences are the same to the model.
bool same_beginning(const SequenceInputs& a, const SequenceInputs& b, std::int64_t tokens) {
  bool same = at::equal(a.token_ids.narrow(0, 0, tokens), b.token_ids.narrow(0, 0, tokens)) &&
              at::equal(a.embeddings.narrow(0, 0, tokens), b.embeddings.narrow(0, 0, tokens)) &&
              at::equal(a.positions.narrow(1, 0, tokens), b.positions.narrow(1, 0, tokens));
  for (const auto& [layer, experts] : a.replayed)
    same = same && at::equal(experts.narrow(0, 0, tokens), b.replayed.at(layer).narrow(0, 0, tokens));
  return same;
}

// Prefixes that were computed, for the sequences that begin with them.
class Prefixes {
 public:
  Prefixes(const ModelConfig& config, const TensorMap& weights, std::int64_t tokens, std::int64_t at_once)
      : config_(config), weights_(weights), tokens_(tokens), at_once_(at_once) {}

  Progress of(const SequenceInputs& inputs) {
    for (const auto& [first, progress] : kept_)
      if (same_beginning(first, inputs, tokens_)) return progress;
    Progress progress = {empty_cache(config_, weights_), {}};
    go_on(config_, weights_, inputs, tokens_, at_once_, progress);
    kept_.emplace_back(inputs, progress);
    return progress;
  }

 private:
  const ModelConfig& config_;
  const TensorMap& weights_;
  std::int64_t tokens_, at_once_;
  std::vector<std::pair<SequenceInputs, Progress>> kept_;
};

}  // namespace

TensorMap rollout(const ModelConfig& config, const TensorMap& weights, const Batch& batch,
                  const RolloutSpec& spec, const TensorMap& routes) {
  check_weights(config, weights);
  batch.validate(batch.name, config);
  if (batch.tokens() == 0) throw InputError(batch.name, "token_ids", "the batch has no token");
  if (spec.replay) check_routes(config, batch, routes);
  const at::NoGradGuard guard;

  const std::int64_t at_once = spec.chunk > 0 ? spec.chunk : batch.tokens();
  Prefixes prefixes(config, weights, spec.prefix, at_once);
  std::vector<at::Tensor> logits;
  std::map<std::string, std::vector<at::Tensor>> routed;
  for (std::int64_t d = 0; d < batch.documents(); ++d) {
    const std::int64_t length = batch.document(d).size(), prompt = spec.prompt_of(length);
    if (length == 0) continue;
    const SequenceInputs inputs = inputs_of(config, weights, batch, d, spec.replay ? routes : TensorMap{});
    Progress progress = spec.prefix > 0 && spec.prefix <= prompt ? prefixes.of(inputs)
                                                                 : Progress{empty_cache(config, weights), {}};
    go_on(config, weights, inputs, prompt, at_once, progress);
    go_on(config, weights, inputs, length, 1, progress);
    for (const Decoded& part : progress.parts) {
      logits.push_back(part.logits);
      for (const auto& [layer, experts] : part.routes) routed[layer].push_back(experts);
    }
  }

  TensorMap results = sampled(at::cat(logits), batch, spec);
  results["rollout/logits"] = at::cat(logits);
  for (const auto& [layer, parts] : routed) results["rollout/routes/" + layer] = at::cat(parts);
  return results;
}

}  // namespace meshparity::reference

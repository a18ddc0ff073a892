#include "reference/rollout/generate.h"

#include <ATen/core/grad_mode.h>

#include "harness/types/error.h"
#include "harness/types/generator.h"
#include "reference/document.h"
#include "reference/layer_weights.h"
#include "reference/model.h"
#include "reference/rollout/sampling.h"
#include "reference/rollout/sequence.h"

namespace meshparity::reference {
namespace {

// The token at which the cumulative probability passes u, in the order of ids.
std::int64_t drawn(const at::Tensor& logits, const RolloutSpec& spec, double u) {
  const at::Tensor scaled = logits / spec.temperature;
  const at::Tensor all = at::softmax(scaled, -1);
  const at::Tensor kept = all * support_of(all.unsqueeze(0), spec.top_p).squeeze(0);
  const at::Tensor up_to = kept.cumsum(0);
  const at::Tensor passed = (up_to > u * up_to[-1]).nonzero();
  return passed[0].item<std::int64_t>();
}

}  // namespace

Batch generate(const ModelConfig& config, const TensorMap& weights, const Batch& batch,
               const RolloutSpec& spec, std::uint64_t seed) {
  check_weights(config, weights);
  batch.validate(batch.name, config);
  if (!batch.images.empty() || !batch.videos.empty())
    throw InputError(batch.name, "pixel_values", "generation draws tokens of text alone");
  const at::NoGradGuard guard;
  const at::Tensor& table = weights.at("model.embed_tokens.weight");
  Batch out = batch;
  for (std::int64_t d = 0; d < batch.documents(); ++d) {
    const Range tokens = batch.document(d);
    if (tokens.size() == 0) continue;
    const Generator random(seed, "rollout/document" + std::to_string(d));
    const Document document = document_of(config, batch, d, table.options());
    SequenceInputs inputs = {document.token_ids.clone(),
                             embed_document(config, weights, document).clone(),
                             document.positions,
                             {}};
    Cache cache = empty_cache(config, weights);
    const std::int64_t prompt = spec.prompt_of(tokens.size());
    Decoded last = advance(config, weights, inputs, {0, prompt}, cache);
    for (std::int64_t t = prompt; t < tokens.size(); ++t) {
      const std::int64_t id = drawn(last.logits[-1], spec, random.uniform(static_cast<std::uint64_t>(t)));
      out.token_ids[tokens.begin + t] = id;
      if (out.labels[tokens.begin + t - 1] >= 0) out.labels[tokens.begin + t - 1] = id;
      inputs.token_ids[t] = id;
      inputs.embeddings[t].copy_(table[id]);
      if (t + 1 < tokens.size()) last = advance(config, weights, inputs, {t, t + 1}, cache);
    }
  }
  out.validate(out.name, config);
  return out;
}

}  // namespace meshparity::reference

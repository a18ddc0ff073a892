#include "impl/blocks/decoder.h"

#include "impl/blocks/attention.h"
#include "impl/blocks/feed_forward.h"
#include "impl/blocks/gated_delta_net.h"
#include "impl/blocks/moe.h"

namespace meshparity::impl {

HeadOutput decoder_forward(const BlockContext& context, const ShardedParameters& parameters,
                           const DecoderInput& input, const ActivationHook& record) {
  const ModelConfig& config = context.config;
  const auto note = [&](const std::string& name, const at::Tensor& value) {
    if (record) record(name, value);
  };
  const auto norm = [&](const at::Tensor& x, const at::Tensor& weight) {
    return context.primitives.rms_norm(x, weight, config.rms_norm_eps);
  };
  const UnitWeights embedding = parameters.gather(0);
  at::Tensor x = embed(context, embedding["embed_tokens.weight"], input.ids, input.vocabulary_begin);
  note("embed", x);
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const Site site = "layers." + std::to_string(i);
    const UnitWeights w = parameters.gather(1 + i);
    const auto mixer = config.full_attention[i] ? attention_block : gated_delta_net_block;
    const at::Tensor mixed = mixer(context, w, norm(x, w["input_layernorm.weight"]), site);
    note(site + ".mixer", mixed);
    x = x + mixed;
    const auto ffn = config.is_moe() ? moe_block : feed_forward_block;
    const at::Tensor fed = ffn(context, w, norm(x, w["post_attention_layernorm.weight"]), site);
    note(site + ".ffn", fed);
    x = x + fed;
  }
  const UnitWeights last = parameters.gather(parameters.units() - 1);
  const at::Tensor h = norm(x, last["norm.weight"]);
  note("norm", h);
  // A tied head is the embedding's gathered table: one parameter used twice, its gradients added by the
  // graph.
  const at::Tensor head =
      config.tie_word_embeddings ? embedding["embed_tokens.weight"] : last["lm_head.weight"];
  return head_logprobs(context, h, head, input.labels, input.vocabulary_begin);
}

}  // namespace meshparity::impl

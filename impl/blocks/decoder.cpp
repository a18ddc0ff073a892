#include "impl/blocks/decoder.h"

#include "impl/blocks/attention.h"
#include "impl/blocks/feed_forward.h"
#include "impl/blocks/gated_delta_net.h"
#include "impl/blocks/moe.h"

namespace meshparity::impl {
namespace {

void note(const ActivationHook& record, const std::string& name, const at::Tensor& value) {
  if (record) record(name, value);
}

at::Tensor norm(const BlockContext& context, const at::Tensor& x, const at::Tensor& weight) {
  return context.primitives.rms_norm(x, weight, context.config.rms_norm_eps);
}

}  // namespace

at::Tensor decoder_embed(const BlockContext& context, const UnitWeights& embedding, const DecoderInput& input,
                         const ActivationHook& record) {
  const at::Tensor x = embed(context, embedding["embed_tokens.weight"], input.ids, input.vocabulary_begin);
  note(record, "embed", x);
  return x;
}

at::Tensor decoder_layer(const BlockContext& context, const UnitWeights& w, bool full_attention,
                         const at::Tensor& x, const Site& site, const ActivationHook& record) {
  const auto mixer = full_attention ? attention_block : gated_delta_net_block;
  const at::Tensor mixed = mixer(context, w, norm(context, x, w["input_layernorm.weight"]), site);
  note(record, site + ".mixer", mixed);
  const at::Tensor between = context.primitives.add(x, mixed);
  const auto ffn = context.config.is_moe() ? moe_block : feed_forward_block;
  const at::Tensor fed = ffn(context, w, norm(context, between, w["post_attention_layernorm.weight"]), site);
  note(record, site + ".ffn", fed);
  return context.primitives.add(between, fed);
}

at::Tensor decoder_layers(const BlockContext& context, const ShardedParameters& parameters, Range layers,
                          at::Tensor x, bool recompute, const ActivationHook& record) {
  for (std::int64_t i = layers.begin; i < layers.end; ++i) {
    const auto layer = [&context, &parameters, i](const at::Tensor& y, const ActivationHook& hook) {
      const Site site = "layers." + std::to_string(i);
      return decoder_layer(context, parameters.gather(site), context.config.full_attention[i], y, site, hook);
    };
    // The second run records nothing.
    const auto again = [layer](const at::Tensor& y) { return layer(y, nullptr); };
    const auto first = [&](const at::Tensor& y) { return layer(y, record); };
    x = recompute ? context.primitives.recomputed(x, first, again) : first(x);
  }
  return x;
}

const at::Tensor& head_table(const ModelConfig& config, const UnitWeights& head) {
  // A tied head is the embedding's gathered table: one parameter used twice, its gradients added by the
  // graph, and where the two uses are on different stages by a reduction over them.
  return head[config.tie_word_embeddings ? "embed_tokens.weight" : "lm_head.weight"];
}

DecoderOutput decoder_head(const BlockContext& context, const UnitWeights& last, const UnitWeights& head,
                           const DecoderInput& input, const at::Tensor& x, const ActivationHook& record) {
  const at::Tensor h = norm(context, x, last["norm.weight"]);
  note(record, "norm", h);
  return {h, head_logprobs(context, h, head_table(context.config, head), input.labels, input.vocabulary_begin,
                           input.log_sums)};
}

}  // namespace meshparity::impl

#include "impl/blocks/mtp.h"

namespace meshparity::impl {

at::Tensor mtp_embed(const BlockContext& context, const UnitWeights& embedding, const DecoderInput& input) {
  return embed(context, embedding["embed_tokens.weight"], input.next_ids, input.vocabulary_begin,
               "mtp.embed_tokens");
}

HeadOutput mtp_head(const BlockContext& context, const ShardedParameters& parameters, const UnitWeights& head,
                    const DecoderInput& input, const at::Tensor& hidden, const at::Tensor& next,
                    bool recompute) {
  BlockContext own = context;
  own.router = nullptr;
  const auto layer = [own, &parameters](const at::Tensor& next_and_hidden) {
    const UnitWeights w = parameters.gather("mtp");
    const std::int64_t width = own.config.hidden_size;
    const double eps = own.config.rms_norm_eps;
    const auto norm = [&](const at::Tensor& x, const char* weight) {
      return own.primitives.rms_norm(x.contiguous(), w[weight], eps);
    };
    const at::Tensor both = at::cat({norm(next_and_hidden.slice(1, 0, width), "pre_fc_norm_embedding.weight"),
                                     norm(next_and_hidden.slice(1, width), "pre_fc_norm_hidden.weight")},
                                    1);
    const at::Tensor x = own.primitives.linear(both, {w["fc.weight"]})[0];
    return norm(decoder_layer(own, w, /*full_attention=*/true, x, "mtp.layers.0", nullptr), "norm.weight");
  };
  const at::Tensor x = at::cat({next, hidden}, 1);
  const at::Tensor y = recompute ? context.primitives.recomputed(x, layer, layer) : layer(x);
  return head_logprobs(context, y, head_table(context.config, head), input.next_labels,
                       input.vocabulary_begin, /*log_sums=*/false, "mtp.lm_head");
}

}  // namespace meshparity::impl

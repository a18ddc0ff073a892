// Activations that wait for their backward: an estimate by counting, tensor by tensor, what the derivatives
// of the blocks need (docs/plan.md has the derivation). Sizes are elements of one micro-batch; what is kept
// in float32 whatever the dtype says so.
#include <algorithm>

#include "harness/layout/mesh_plan.h"
#include "harness/layout/stages.h"

namespace meshparity::layout {
namespace {

// Elements in the dtype of activations, and in at least float32.
struct Elements {
  std::int64_t plain = 0, wide = 0;
  Elements& operator+=(const Elements& o) {
    plain += o.plain, wide += o.wide;
    return *this;
  }
  Elements operator*(std::int64_t n) const { return {plain * n, wide * n}; }
};

std::int64_t most_of(std::int64_t n, std::int64_t parts) {
  return (n + parts - 1) / parts;
}

// Of a row, on the context rank that has most: the sizes that token_ranges.h gives.
std::int64_t most_tokens(std::int64_t row, const std::string& layout, int ring, int uly) {
  if (layout == "contiguous" || ring == 1) return most_of(row, std::int64_t{ring} * uly);
  std::int64_t most = 0;
  for (int r = 0; r < ring; ++r)
    most = std::max(most, cut(row, 2 * ring, r).size() + cut(row, 2 * ring, 2 * ring - 1 - r).size());
  return most_of(most, uly);
}

class Blocks {
 public:
  Blocks(const ModelConfig& config, const Mesh& mesh, const Flags& flags, const PlanBatch& batch)
      : c_(config), m_(mesh), f_(flags), d_(config.hidden_size) {
    tokens_ = most_tokens(batch.row_tokens, flags.layout, mesh.ring, mesh.uly);
    stream_ = flags.sp ? most_of(tokens_, mesh.tp) : tokens_;
    patches_ = batch.row_patches;
  }

  // What recomputation keeps of a layer: its input.
  Elements layer_input() const { return {stream_ * d_, 0}; }

  Elements layer(bool full_attention) const {
    Elements e = full_attention ? attention() : delta_rule();
    e += ffn();
    return e;
  }

  // Final norm; logits and the sum that makes them probabilities.
  Elements head() const { return {2 * stream_ * d_, tokens_ * most_of(c_.vocab_size, m_.tp)}; }

  // Both halves of fc's input, its output, a layer of full attention, and a head of its own.
  Elements multi_token_prediction() const {
    Elements e{stream_ * 3 * d_, 0};
    e += layer(true), e += head();
    return e;
  }

  Elements vision() const {
    const VisionConfig& v = c_.vision;
    // tp cuts the width, or tp and cp the images.
    const bool images = f_.vision == "images";
    const std::int64_t width = images ? 1 : m_.tp,
                       patches = images ? most_of(patches_, m_.tp * m_.cp()) : patches_;
    const std::int64_t block = patches * (4 * v.hidden_size + most_of(4 * v.hidden_size, width) +
                                          most_of(2 * v.intermediate_size, width));
    const std::int64_t merger =
        patches * v.hidden_size +
        patches / v.merged_patches() * (v.merged_width() + 2 * most_of(v.merged_width(), width) + d_);
    return {patches * v.patch_width() + v.depth * block + merger, 0};
  }

 private:
  // Norm's input and output; q with its gate, k, v; q and k after norm and rope; what attention gives, its
  // log-sum-exp; what the gate makes of it.
  Elements attention() const {
    const std::int64_t heads = c_.num_attention_heads / m_.tp,
                       kv = std::max<std::int64_t>(1, c_.num_key_value_heads / m_.tp), width = c_.head_dim;
    Elements e{2 * stream_ * d_, 0};
    e.plain += tokens_ * width * (2 * heads + 2 * kv + heads + kv + 2 * heads);
    e.wide += tokens_ * heads;
    if (m_.ring > 1 && f_.attn == "gather") e.plain += tokens_ * m_.ring * 2 * kv * width;
    return e;
  }

  // Norm's input and output; q|k|v before and after the convolution; z, b, a; decay and beta; what the rule
  // gives; what norm and gate make of it; a state every 64 tokens. Passed states: those of all ranks.
  Elements delta_rule() const {
    const std::int64_t channels = c_.gdn_conv_width() / m_.tp, heads = c_.linear_num_value_heads / m_.tp,
                       values = c_.gdn_value_width() / m_.tp,
                       state = heads * c_.linear_key_head_dim * c_.linear_value_head_dim;
    Elements e{2 * stream_ * d_, 0};
    e.plain += tokens_ * (2 * channels + values + 2 * heads + 2 * values);
    e.wide += tokens_ * 2 * heads + most_of(tokens_, 64) * state;
    if (f_.gdn == "gather") e.plain += tokens_ * (m_.cp() - 1) * (channels + 2 * heads);
    const std::int64_t passing = f_.gdn == "state" ? m_.cp() : f_.gdn == "hybrid" ? m_.ring : 1;
    if (passing > 1) {
      const std::int64_t own = heads / (f_.gdn == "hybrid" ? m_.uly : 1);
      e.wide += passing * own * c_.linear_key_head_dim * (c_.linear_key_head_dim + c_.linear_value_head_dim);
    }
    return e;
  }

  // Norm's input and output; gate, up, and their product. Experts: the router's probabilities, and for every
  // row that comes to the rank's experts, if all get the same share, its input, gate, up, product and output.
  Elements ffn() const {
    Elements e{2 * stream_ * d_, 0};
    if (!c_.is_moe()) {
      e.plain += tokens_ * 3 * most_of(c_.intermediate_size, m_.tp);
      return e;
    }
    const std::int64_t routed = m_.expert_tokens_cut() ? most_of(tokens_, m_.tp) : tokens_;
    const std::int64_t width = most_of(c_.moe_intermediate_size, m_.expert_tp());
    e.wide += routed * c_.num_experts;
    e.plain += routed * c_.num_experts_per_tok * (2 * d_ + 3 * width);
    e.plain += tokens_ * (3 * most_of(c_.shared_expert_intermediate_size, m_.tp) + 1);
    return e;
  }

  const ModelConfig& c_;
  const Mesh& m_;
  const Flags& f_;
  std::int64_t d_, tokens_ = 0, stream_ = 0, patches_ = 0;
};

}  // namespace

std::vector<std::int64_t> waiting_micro_batches(const Mesh& mesh, const Flags& flags,
                                                std::int64_t micro_batches, int pp) {
  const std::int64_t behind = mesh.pp - 1 - pp;
  if (mesh.pp == 1) return {1};
  if (flags.schedule == "gpipe") return {micro_batches};
  if (flags.schedule == "1f1b") return {std::min(micro_batches, behind + 1)};
  // Two virtual stages take pp micro-batches each in turn; 2 * behind + pp forwards run ahead.
  const std::int64_t turn = std::min<std::int64_t>(mesh.pp, micro_batches),
                     all = std::min(2 * behind + mesh.pp + 1, 2 * micro_batches);
  return {std::min(turn, all) + std::max<std::int64_t>(0, all - 2 * turn),
          std::max<std::int64_t>(0, std::min(turn, all - turn))};
}

std::vector<std::int64_t> activation_bytes(const ModelConfig& config, const Mesh& mesh, const Flags& flags,
                                           const PlanBatch& batch, const PlanDtypes& dtypes) {
  const Blocks blocks(config, mesh, flags, batch);
  const int all = virtual_stages(mesh, flags);
  const Elements kinds[] = {blocks.layer(false), blocks.layer(true)};
  const auto size = static_cast<std::int64_t>(dtype_size(dtypes.parameters));
  std::vector<std::int64_t> bytes;
  for (int pp = 0; pp < mesh.pp; ++pp) {
    const std::vector<std::int64_t> waiting =
        waiting_micro_batches(mesh, flags, batch.micro_batches(mesh), pp);
    Elements sum, recomputed;
    for (int v = pp, chunk = 0; v < all; v += mesh.pp, ++chunk) {
      Elements stage;
      const Range layers = cut(config.num_hidden_layers, all, v);
      for (std::int64_t i = layers.begin; i < layers.end; ++i) {
        const Elements& layer = kinds[config.full_attention[static_cast<std::size_t>(i)] ? 1 : 0];
        stage += flags.recompute ? blocks.layer_input() : layer;
        if (layer.plain > recomputed.plain) recomputed = layer;
      }
      if (v == 0 && config.has_vision()) stage += blocks.vision();
      if (v == all - 1) stage += blocks.head();
      if (v == all - 1 && config.mtp_num_hidden_layers > 0) stage += blocks.multi_token_prediction();
      sum += stage * waiting[static_cast<std::size_t>(chunk)];
    }
    if (flags.recompute) sum += recomputed;  // the one layer whose forward runs again
    bytes.push_back(sum.plain * size + sum.wide * std::max<std::int64_t>(size, 4));
  }
  return bytes;
}

}  // namespace meshparity::layout

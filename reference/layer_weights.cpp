#include "reference/layer_weights.h"

#include "reference/blocks/embedding.h"

namespace meshparity::reference {
namespace {

VisionWeights vision_weights(const ModelConfig& c, const TensorMap& w) {
  const auto affine = [&](const std::string& name) {
    return Affine{w.at("model.visual." + name + ".weight"), w.at("model.visual." + name + ".bias")};
  };
  VisionWeights v{
      affine("patch_embed.proj"), w.at("model.visual.pos_embed.weight"), {},
      affine("merger.norm"),      affine("merger.linear_fc1"),           affine("merger.linear_fc2")};
  for (std::int64_t i = 0; i < c.vision.depth; ++i) {
    const std::string b = "blocks." + std::to_string(i) + ".";
    v.blocks.push_back({affine(b + "norm1"), affine(b + "attn.qkv"), affine(b + "attn.proj"),
                        affine(b + "norm2"), affine(b + "mlp.linear_fc1"), affine(b + "mlp.linear_fc2")});
  }
  return v;
}

}  // namespace

AttentionWeights attention_weights(const TensorMap& w, const std::string& layer) {
  const std::string a = layer + "self_attn.";
  return {w.at(a + "q_proj.weight"), w.at(a + "k_proj.weight"), w.at(a + "v_proj.weight"),
          w.at(a + "o_proj.weight"), w.at(a + "q_norm.weight"), w.at(a + "k_norm.weight")};
}

GatedDeltaNetWeights gated_delta_net_weights(const TensorMap& w, const std::string& layer) {
  const std::string g = layer + "linear_attn.";
  return {w.at(g + "in_proj_qkv.weight"),
          w.at(g + "in_proj_z.weight"),
          w.at(g + "in_proj_b.weight"),
          w.at(g + "in_proj_a.weight"),
          w.at(g + "conv1d.weight"),
          w.at(g + "A_log"),
          w.at(g + "dt_bias"),
          w.at(g + "norm.weight"),
          w.at(g + "out_proj.weight")};
}

MoeWeights moe_weights(const TensorMap& w, const std::string& layer) {
  const std::string m = layer + "mlp.";
  return {w.at(m + "gate.weight"),
          w.at(m + "experts.gate_up_proj"),
          w.at(m + "experts.down_proj"),
          w.at(m + "shared_expert.gate_proj.weight"),
          w.at(m + "shared_expert.up_proj.weight"),
          w.at(m + "shared_expert.down_proj.weight"),
          w.at(m + "shared_expert_gate.weight")};
}

at::Tensor embed_document(const ModelConfig& c, const TensorMap& w, const Document& document,
                          const VisionNote& note) {
  at::Tensor x = embed(document.token_ids, w.at("model.embed_tokens.weight"));
  const auto put = [&](const Document::Sight& sight, std::int64_t id) {
    if (sight.grids.empty()) return;
    const at::Tensor rows = vision_tower(sight.patches, sight.grids, vision_weights(c, w), c.vision.num_heads,
                                         c.vision.spatial_merge_size, note);
    x = x.index_copy(0, (document.token_ids == id).nonzero().squeeze(1), rows);
  };
  put(document.images, c.image_token_id);
  put(document.videos, c.video_token_id);
  return x;
}

RotaryTable rope_of(const ModelConfig& c, const TensorMap& w, const at::Tensor& positions) {
  return rotary_table(positions, c.rotary_dim, c.rope_theta, c.mrope_section,
                      w.at("model.embed_tokens.weight").options());
}

const at::Tensor& head_of(const ModelConfig& c, const TensorMap& w) {
  return w.at(c.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
}

}  // namespace meshparity::reference

#include "impl/blocks/vision.h"

namespace meshparity::impl {
namespace {

constexpr double kLayerNormEpsilon = 1e-6;

void show_activation(const VisionHook& record, const std::string& name, const at::Tensor& value) {
  if (record) record(name, value);
}

// One tower on one micro-batch: what its blocks share.
struct Tower {
  const Primitives& f;
  const TensorParallel& tp;
  const UnitWeights& w;
  const VisionPatches& patches;
  std::int64_t head_dim;

  const at::Tensor& weight(const std::string& name) const { return w[(name + ".weight").c_str()]; }
  const at::Tensor& bias(const std::string& name) const { return w[(name + ".bias").c_str()]; }

  at::Tensor norm(const at::Tensor& x, const std::string& name) const {
    return f.layer_norm(x, weight(name), bias(name));
  }
  // Rows of the weight and their biases lie on their rank.
  at::Tensor column_parallel(const at::Tensor& x, const std::string& name) const {
    return f.column_bias(f.linear(x, {weight(name)})[0], bias(name));
  }
  // Every rank has a part of the sum; the bias is added once, to the whole.
  at::Tensor row_parallel(const at::Tensor& x, const std::string& name) const {
    return f.row_bias(tp.leave(f.linear(x, {weight(name)})[0], "visual." + name), bias(name));
  }

  at::Tensor attend(const at::Tensor& x, const std::string& block) const {
    const at::Tensor qkv = column_parallel(tp.enter(x, "visual." + block + ".attn"), block + ".attn.qkv");
    const Tensors parts = qkv.chunk(3, 1);
    const at::Tensor q = f.rope(parts[0].contiguous(), patches.tokens),
                     k = f.rope(parts[1].contiguous(), patches.tokens);
    return row_parallel(f.vision_attention(q, k, parts[2].contiguous(), patches.tokens, head_dim),
                        block + ".attn.proj");
  }

  at::Tensor feed(const at::Tensor& x, const std::string& block) const {
    const at::Tensor h = column_parallel(tp.enter(x, "visual." + block + ".mlp"), block + ".mlp.linear_fc1");
    return row_parallel(f.gelu_tanh(h), block + ".mlp.linear_fc2");
  }

  at::Tensor merge(const at::Tensor& x, std::int64_t patches_per_feature) const {
    const at::Tensor grouped =
        norm(x, "merger.norm").reshape({x.size(0) / patches_per_feature, patches_per_feature * x.size(1)});
    const at::Tensor h = column_parallel(tp.enter(grouped, "visual.merger"), "merger.linear_fc1");
    return row_parallel(f.gelu_erf(h), "merger.linear_fc2");
  }
};

}  // namespace

at::Tensor vision_tower(const BlockContext& context, const TensorParallel& tp, const UnitWeights& w,
                        const at::Tensor& pixels, const VisionPatches& patches, const VisionHook& record) {
  const VisionConfig& config = context.config.vision;
  const Primitives& f = context.primitives;
  const Tower tower{f, tp, w, patches, config.head_dim()};
  const at::Tensor kernel =
      tower.weight("patch_embed.proj").reshape({config.hidden_size, config.patch_width()});
  at::Tensor x = f.column_bias(f.linear(pixels, {kernel})[0], tower.bias("patch_embed.proj")) +
                 f.resample_positions(tower.weight("pos_embed"), patches);
  show_activation(record, "visual.patch_embed", x);
  for (std::int64_t i = 0; i < config.depth; ++i) {
    const std::string block = "blocks." + std::to_string(i);
    x = x + tower.attend(tower.norm(x, block + ".norm1"), block);
    x = x + tower.feed(tower.norm(x, block + ".norm2"), block);
    show_activation(record, "visual." + block, x);
  }
  const at::Tensor features = tower.merge(x, config.merged_patches());
  show_activation(record, "visual.merger", features);
  return features;
}

std::vector<MicroBatchImages> make_images(const Batch& batch, const ModelConfig& config, const Mesh& mesh,
                                          const Flags& flags, const RankCoordinate& at,
                                          const TokenLayout& layout, const PackingOptions& options) {
  std::vector<MicroBatchImages> list;
  const auto tensors = at::TensorOptions(options.dtype).device(options.device);
  for (VisionPart& part : make_vision_parts(batch, config, mesh, flags, at, layout, tensors)) {
    VisionPatches patches = make_vision_patches(part.grids, config.vision, options);
    list.push_back({std::move(part), std::move(patches)});
  }
  return list;
}

at::Tensor image_features(const BlockContext& context, const ShardedParameters& parameters, const Group& cp,
                          const MicroBatchImages& images, const VisionHook& record) {
  const VisionPart& part = images.part;
  // The tower never runs sequence-parallel; with whole weights it is alone.
  TensorParallel tp = context.tp;
  tp.sequence = false;
  if (part.whole) tp.group = std::make_shared<Group>("tp", 0, 1, nullptr);
  const UnitWeights weights = parameters.gather("visual");
  const at::Tensor own = vision_tower(context, tp, weights, part.pixels, images.patches, record);
  return context.primitives.gather_features(*context.tp.collectives, *context.tp.group, cp, own, part);
}

void place_images(const BlockContext& context, const ShardedParameters& parameters, const Group& cp,
                  const MicroBatchImages& images, const VisionHook& record, at::Tensor& x, at::Tensor& next) {
  const at::Tensor features = image_features(context, parameters, cp, images, record);
  const Primitives& f = context.primitives;
  x = f.place_features(x, features, images.part.places);
  if (next.defined()) next = f.place_features(next, features, images.part.next_places);
}

at::Tensor add_bias(const at::Tensor& x, const at::Tensor& bias) {
  at::Tensor y;
  {
    const BelowAutograd guard;
    y = x + bias;
  }
  return attach("add_bias", {x, bias}, {y}, [](const Tensors& grads) {
    return Tensors{grads[0], grads[0].sum(0)};
  })[0];
}

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  at::Tensor inverse, normal, y;
  {
    const BelowAutograd guard;
    const at::Tensor centred = x - x.mean(-1, true);
    inverse = centred.square().mean(-1, true).add_(kLayerNormEpsilon).rsqrt_();
    normal = centred * inverse;
    y = at::addcmul(bias, normal, weight);
  }
  return attach("layer_norm", {x, weight, bias}, {y}, [inverse, normal, weight](const Tensors& grads) {
    const at::Tensor& dy = grads[0];
    const at::Tensor u = dy * weight;
    const at::Tensor along = (u * normal).mean(-1, true);
    const at::Tensor dx = (u - u.mean(-1, true)).addcmul_(normal, along, -1).mul_(inverse);
    return Tensors{dx, (dy * normal).sum(0), dy.sum(0)};
  })[0];
}

namespace {

at::Tensor gelu_by(const at::Tensor& x, const char* how) {
  at::Tensor y;
  {
    const BelowAutograd guard;
    y = at::gelu(x, how);
  }
  return attach("gelu", {x}, {y}, [x, how](const Tensors& grads) {
    return Tensors{at::gelu_backward(grads[0].contiguous(), x, how)};
  })[0];
}

}  // namespace

at::Tensor gelu_erf(const at::Tensor& x) {
  return gelu_by(x, "none");
}

at::Tensor gelu_tanh(const at::Tensor& x) {
  return gelu_by(x, "tanh");
}

at::Tensor resample_positions(const at::Tensor& table, const VisionPatches& patches) {
  const at::Tensor taps = patches.taps, weights = patches.tap_weights.unsqueeze(2);
  const std::int64_t n = taps.size(0), width = table.size(1);
  at::Tensor y;
  {
    const BelowAutograd guard;
    y = (table.index_select(0, taps.view({-1})).view({n, 4, width}) * weights).sum(1);
  }
  return attach("resample_positions", {table}, {y}, [table, taps, weights, n, width](const Tensors& grads) {
    const at::Tensor spread = (grads[0].unsqueeze(1) * weights).view({4 * n, width});
    return Tensors{at::zeros_like(table).index_add_(0, taps.view({-1}), spread)};
  })[0];
}

}  // namespace meshparity::impl

// The vision tower: patches of images -> one row of the text model's width for every merge x merge block of
// patches. Images and videos are one list of frames; attention stays inside a frame. Legend: P patches this
// rank computes, F = P / merge^2 features, Dv the tower's width, H its heads on this rank, d its head width,
// D the text model's width. Every dtype; accumulation in the tensors' dtype. Source: qwen35.md 1.8.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "harness/types/batch.h"
#include "impl/blocks/context.h"
#include "impl/parallel/vision.h"

namespace meshparity::impl {

// What the tower needs to know about its patches, from their grids alone. The patches of a frame stand block
// by block (block row, block column, row and column inside the block), frame after frame.
struct VisionPatches {
  PackedTokens tokens;     // rotary tables of the whole head, and one attention block per frame
  at::Tensor taps;         // [P, 4] int64: rows of the position table
  at::Tensor tap_weights;  // [P, 4]: their bilinear weights
};
VisionPatches make_vision_patches(const std::vector<Grid>& grids, const VisionConfig& config,
                                  const PackingOptions& options);

// Called with "visual.patch_embed" [P, Dv] (positions added), "visual.blocks.<i>" [P, Dv] (the residual
// stream behind block i) and "visual.merger" [F, D]. May be null.
using VisionHook = std::function<void(const std::string& name, const at::Tensor& value)>;

// pixels [P, patch_width] -> features [F, D]. `tp`: cuts heads and widths; its group of one rank means whole
// weights. `w`: the unit "visual". P may be 0: the collectives are the same ones.
at::Tensor vision_tower(const BlockContext& context, const TensorParallel& tp, const UnitWeights& w,
                        const at::Tensor& pixels, const VisionPatches& patches, const VisionHook& record);

// The images of one micro-batch on one rank of the first stage, and one per micro-batch.
struct MicroBatchImages {
  VisionPart part;
  VisionPatches patches;
};
std::vector<MicroBatchImages> make_images(const Batch& batch, const ModelConfig& config, const Mesh& mesh,
                                          const Flags& flags, const RankCoordinate& at,
                                          const TokenLayout& layout, const PackingOptions& options);

// The features [F, D] of all images of this rank's tokens, in their order. Gathers the unit "visual".
at::Tensor image_features(const BlockContext& context, const ShardedParameters& parameters, const Group& cp,
                          const MicroBatchImages& images, const VisionHook& record);

// Puts the features of the images at the placeholders of the residual stream x [T, D], and where `next` is
// defined (embeddings of the next tokens, [T, D]) at those of that. Gathers the unit "visual".
void place_images(const BlockContext& context, const ShardedParameters& parameters, const Group& cp,
                  const MicroBatchImages& images, const VisionHook& record, at::Tensor& x, at::Tensor& next);

// The functions of the tower that are entries of the table of primitives.

// x + bias, [T, N] and [N].
at::Tensor add_bias(const at::Tensor& x, const at::Tensor& bias);
// (x - mean) / sqrt(variance + 1e-6) * weight + bias over the last dimension of [T, N]; biased variance.
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
// x * Phi(x), by erf or by the tanh approximation.
at::Tensor gelu_erf(const at::Tensor& x);
at::Tensor gelu_tanh(const at::Tensor& x);
// sum_k weights[p, k] * table[taps[p, k]], [P, Dv].
at::Tensor resample_positions(const at::Tensor& table, const VisionPatches& patches);

}  // namespace meshparity::impl

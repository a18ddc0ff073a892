// The vision tower: patches of images (or of videos, frame by frame) become rows that stand in the place of
// placeholder tokens' embeddings. Legend: P patches of all images, W numbers in a patch, V hidden of the
// tower, H heads, d head_dim = V/H (a multiple of 4), F width of the FFN, m spatial_merge_size, D hidden of
// the text model.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "harness/types/batch.h"
#include "reference/blocks/rope.h"

namespace meshparity::reference {

// A linear layer (weight [out, in]) or a LayerNorm (weight [V]).
struct Affine {
  at::Tensor weight, bias;
};

struct VisionBlockWeights {
  Affine norm1;
  Affine qkv;   // [3V, V] rows q | k | v, each head-major
  Affine proj;  // [V, V]
  Affine norm2;
  Affine fc1;  // [F, V]
  Affine fc2;  // [V, F]
};

struct VisionWeights {
  Affine patch_embed;    // [V, ...] W numbers in the order channel, time, row, column
  at::Tensor positions;  // [S*S, V]: a square table that is resampled to every image
  std::vector<VisionBlockWeights> blocks;
  Affine merger_norm;
  Affine merger_fc1;  // [m*m*V, m*m*V]
  Affine merger_fc2;  // [D, m*m*V]
};

// Row and column of every patch, each [P] int64. Within a frame patches go block by block of m x m, blocks
// and the patches of a block row by row; frames follow one another.
struct PatchPlaces {
  at::Tensor row, column;
};
PatchPlaces patch_places(const std::vector<Grid>& grids, std::int64_t merge);

// (x - mean) / sqrt(variance + 1e-6) * weight + bias over the last dimension.
at::Tensor layer_norm(const at::Tensor& x, const Affine& norm);

// x Phi(x), and its approximation x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
at::Tensor exact_gelu(const at::Tensor& x);
at::Tensor tanh_gelu(const at::Tensor& x);

// The table stretched over each image so that corners meet corners, read between its entries: [P, V].
at::Tensor resampled_positions(const at::Tensor& table, const std::vector<Grid>& grids, std::int64_t merge);

// Angles of every pair of a head: row * w_i for the first half of the d/2 pairs, column * w_i for the second,
// w_i = 10000^(-2i/(d/2)). Tables [P, d/2].
RotaryTable axial_rotary_table(const std::vector<Grid>& grids, std::int64_t merge, std::int64_t head_dim,
                               const at::TensorOptions& options);

// softmax(q k^T / sqrt(d)) v inside every frame, in both directions. q, k, v [P, H, d] -> [P, H, d].
at::Tensor frame_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const std::vector<Grid>& grids);

// x + attention(norm(x)), then x + FFN(norm(x)) with the tanh GELU. x [P, V] -> [P, V].
at::Tensor vision_block(const at::Tensor& x, const VisionBlockWeights& weights, const RotaryTable& rope,
                        const std::vector<Grid>& grids, std::int64_t heads);

// One row per block of m x m patches: norm, concatenation, two linear layers around the exact GELU.
// x [P, V] -> [P/(m*m), D].
at::Tensor merge_patches(const at::Tensor& x, const VisionWeights& weights, std::int64_t merge);

// Called with "visual.patch_embed" [P, V] (positions added), "visual.blocks.<i>" [P, V] (the stream behind
// block i) and "visual.merger" [P/(m*m), D].
using VisionNote = std::function<void(const std::string& name, const at::Tensor& value)>;

// The whole tower. patches [P, W] -> [P/(m*m), D], a row per placeholder token. Source: qwen35.md 1.8.
at::Tensor vision_tower(const at::Tensor& patches, const std::vector<Grid>& grids,
                        const VisionWeights& weights, std::int64_t heads, std::int64_t merge,
                        const VisionNote& note = nullptr);

}  // namespace meshparity::reference

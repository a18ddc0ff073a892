#include "reference/blocks/vision.h"

#include <cmath>

namespace meshparity::reference {
namespace {

constexpr double kLayerNormEps = 1e-6;
constexpr double kRopeTheta = 1e4;

at::Tensor affine(const at::Tensor& x, const Affine& layer) {
  return at::linear(x, layer.weight, layer.bias);
}

// Weights [P, S] with which an axis of the table is read at every patch: 1 - |distance| to the entries next
// to the place `index` (P+1) of `size` has on an axis of S entries.
at::Tensor axis_weights(const at::Tensor& index, const at::Tensor& size, std::int64_t entries,
                        const at::TensorOptions& options) {
  const at::Tensor place =
      index.to(options) * static_cast<double>(entries - 1) / (size - 1).clamp_min(1).to(options);
  return (1 - (place.unsqueeze(1) - at::arange(entries, options)).abs()).clamp_min(0);
}

// Rows (axis 1) or columns (axis 2) of the image of every patch, [P].
at::Tensor sizes_of(const std::vector<Grid>& grids, std::size_t axis) {
  std::vector<at::Tensor> sizes;
  for (const Grid& grid : grids) sizes.push_back(at::full({patches_of(grid)}, grid[axis], at::kLong));
  return at::cat(sizes);
}

}  // namespace

PatchPlaces patch_places(const std::vector<Grid>& grids, std::int64_t merge) {
  std::vector<at::Tensor> rows, columns;
  for (const auto& [frames, height, width] : grids) {
    const at::Tensor index = at::arange(height * width, at::kLong).view({height, width});
    const at::Tensor by_block = index.view({height / merge, merge, width / merge, merge})
                                    .transpose(1, 2)
                                    .reshape({-1})
                                    .repeat({frames});
    rows.push_back(at::floor_divide(by_block, width)), columns.push_back(at::remainder(by_block, width));
  }
  return {at::cat(rows), at::cat(columns)};
}

at::Tensor layer_norm(const at::Tensor& x, const Affine& norm) {
  const at::Tensor centred = x - x.mean(-1, /*keepdim=*/true);
  const at::Tensor variance = centred.square().mean(-1, /*keepdim=*/true);
  return centred * at::rsqrt(variance + kLayerNormEps) * norm.weight + norm.bias;
}

at::Tensor exact_gelu(const at::Tensor& x) {
  return 0.5 * x * (1 + at::erf(x * std::sqrt(0.5)));
}

at::Tensor tanh_gelu(const at::Tensor& x) {
  const double scale = std::sqrt(2.0 / M_PI);
  return 0.5 * x * (1 + at::tanh(scale * (x + 0.044715 * x * x * x)));
}

at::Tensor resampled_positions(const at::Tensor& table, const std::vector<Grid>& grids, std::int64_t merge) {
  const auto side = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(table.size(0)))));
  const PatchPlaces places = patch_places(grids, merge);
  const at::TensorOptions options = table.options();
  const at::Tensor row_ps = axis_weights(places.row, sizes_of(grids, 1), side, options);
  const at::Tensor column_ps = axis_weights(places.column, sizes_of(grids, 2), side, options);
  const at::Tensor weight_pss = row_ps.unsqueeze(2) * column_ps.unsqueeze(1);
  return at::matmul(weight_pss.flatten(1), table);
}

RotaryTable axial_rotary_table(const std::vector<Grid>& grids, std::int64_t merge, std::int64_t head_dim,
                               const at::TensorOptions& options) {
  const std::int64_t quarter = head_dim / 4;
  const at::Tensor frequency =
      at::pow(kRopeTheta, at::arange(quarter, options) * (-2.0 / static_cast<double>(head_dim / 2)));
  const PatchPlaces places = patch_places(grids, merge);
  const auto angles = [&](const at::Tensor& place) { return place.to(options).unsqueeze(1) * frequency; };
  const at::Tensor angle = at::cat({angles(places.row), angles(places.column)}, 1);
  return {angle.cos(), angle.sin()};
}

at::Tensor frame_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const std::vector<Grid>& grids) {
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(2)));
  std::vector<at::Tensor> frames;
  std::int64_t begin = 0;
  for (const Grid& grid : grids) {
    const std::int64_t patches = grid[1] * grid[2];
    for (std::int64_t frame = 0; frame < grid[0]; ++frame, begin += patches) {
      const auto heads_first = [&](const at::Tensor& x) {
        return x.narrow(0, begin, patches).transpose(0, 1);
      };
      const at::Tensor scores_hqk = at::matmul(heads_first(q), heads_first(k).transpose(1, 2)) * scale;
      frames.push_back(at::matmul(at::softmax(scores_hqk, -1), heads_first(v)).transpose(0, 1));
    }
  }
  return at::cat(frames);
}

at::Tensor vision_block(const at::Tensor& x, const VisionBlockWeights& w, const RotaryTable& rope,
                        const std::vector<Grid>& grids, std::int64_t heads) {
  const std::int64_t patches = x.size(0), width = x.size(1);
  const at::Tensor qkv = affine(layer_norm(x, w.norm1), w.qkv).view({patches, 3, heads, width / heads});
  const at::Tensor q = apply_rope(qkv.select(1, 0), rope), k = apply_rope(qkv.select(1, 1), rope);
  const at::Tensor attended = frame_attention(q, k, qkv.select(1, 2), grids).reshape({patches, width});
  const at::Tensor y = x + affine(attended, w.proj);
  return y + affine(tanh_gelu(affine(layer_norm(y, w.norm2), w.fc1)), w.fc2);
}

at::Tensor merge_patches(const at::Tensor& x, const VisionWeights& w, std::int64_t merge) {
  const at::Tensor blocks = layer_norm(x, w.merger_norm).reshape({-1, merge * merge * x.size(1)});
  return affine(exact_gelu(affine(blocks, w.merger_fc1)), w.merger_fc2);
}

at::Tensor vision_tower(const at::Tensor& patches, const std::vector<Grid>& grids, const VisionWeights& w,
                        std::int64_t heads, std::int64_t merge, const VisionNote& note) {
  const auto say = [&](const std::string& name, const at::Tensor& value) {
    if (note) note("visual." + name, value);
  };
  const at::Tensor kernel = w.patch_embed.weight.flatten(1);
  at::Tensor x =
      at::linear(patches, kernel, w.patch_embed.bias) + resampled_positions(w.positions, grids, merge);
  const RotaryTable rope = axial_rotary_table(grids, merge, x.size(1) / heads, w.positions.options());
  say("patch_embed", x);
  for (std::size_t i = 0; i < w.blocks.size(); ++i) {
    x = vision_block(x, w.blocks[i], rope, grids, heads);
    say("blocks." + std::to_string(i), x);
  }
  const at::Tensor rows = merge_patches(x, w, merge);
  say("merger", rows);
  return rows;
}

}  // namespace meshparity::reference

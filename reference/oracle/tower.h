// The whole vision tower from plain arrays: what stands in the places of an image's placeholder tokens.
// Legend: P patches, W numbers in a patch, m merge, D hidden of the text model.
#pragma once

#include "harness/types/batch.h"
#include "reference/oracle/model.h"
#include "reference/oracle/norms.h"
#include "reference/oracle/vision.h"

namespace meshparity::oracle {

// Names below model.visual. of one linear layer or norm.
template <class Scalar>
struct VisionPart {
  const Weights<Scalar>& weights;
  std::string name;
  Vector<Scalar> bias() const { return weights.at("model.visual." + name + ".bias").row(0).transpose(); }
  Vector<Scalar> norm(const Vector<Scalar>& x) const {
    return layer_norm<Scalar>(x, weights.at("model.visual." + name + ".weight").row(0).transpose(), bias(),
                              1e-6);
  }
  // A convolution's kernel is stored with its last dimension as columns; its output channels are the rows.
  Vector<Scalar> linear(const Vector<Scalar>& x) const {
    const Matrix<Scalar>& stored = weights.at("model.visual." + name + ".weight");
    const Vector<Scalar> b = bias();
    const Eigen::Map<const Matrix<Scalar>> weight(stored.data(), b.size(), x.size());
    return weight * x + b;
  }
};

// One block on the patches of one frame, x [P, V].
template <class Scalar>
void vision_block(const Weights<Scalar>& w, const std::string& block, std::int64_t heads,
                  const PatchPlace* places, Matrix<Scalar>& x) {
  const auto part = [&](const char* name) { return VisionPart<Scalar>{w, block + name}; };
  const Eigen::Index patches = x.rows(), width = x.cols(), d = width / heads;
  Matrix<Scalar> qkv(patches, 3 * width);
  for (Eigen::Index p = 0; p < patches; ++p)
    qkv.row(p) = part("attn.qkv").linear(part("norm1").norm(x.row(p).transpose())).transpose();
  Matrix<Scalar> attended(patches, width);
  for (Eigen::Index h = 0; h < heads; ++h) {
    Matrix<Scalar> q = qkv.middleCols(h * d, d), k = qkv.middleCols(width + h * d, d);
    for (Eigen::Index p = 0; p < patches; ++p) {
      q.row(p) = axially_rotated<Scalar>(q.row(p).transpose(), places[p]).transpose();
      k.row(p) = axially_rotated<Scalar>(k.row(p).transpose(), places[p]).transpose();
    }
    attended.middleCols(h * d, d) = frame_attention<Scalar>(q, k, qkv.middleCols(2 * width + h * d, d));
  }
  for (Eigen::Index p = 0; p < patches; ++p) {
    const Vector<Scalar> y = x.row(p).transpose() + part("attn.proj").linear(attended.row(p).transpose());
    Vector<Scalar> inner = part("mlp.linear_fc1").linear(part("norm2").norm(y));
    for (Scalar& value : inner) value = tanh_gelu(value);
    x.row(p) = (y + part("mlp.linear_fc2").linear(inner)).transpose();
  }
}

// [P, W] patches of all images -> [P/(m*m), D].
template <class Scalar>
Matrix<Scalar> vision_tower(const ModelConfig& c, const Weights<Scalar>& w, const VisionInput& input) {
  const std::int64_t merged = c.vision.merged_patches(), width = c.vision.patch_width();
  Matrix<Scalar> rows(input.patches() / merged, c.vision.out_hidden_size);
  std::int64_t patch = 0;
  for (const Grid& grid : input.grids) {
    const std::vector<PatchPlace> places = patch_places(grid, c.vision.spatial_merge_size);
    const std::int64_t of_frame = grid[1] * grid[2];
    for (std::int64_t first = 0; first < patches_of(grid); first += of_frame) {
      Matrix<Scalar> x(of_frame, c.vision.hidden_size);
      for (std::int64_t p = 0; p < of_frame; ++p) {
        const Eigen::Map<const Vector<double>> pixels(&input.pixels[(patch + p) * width], width);
        x.row(p) = (VisionPart<Scalar>{w, "patch_embed.proj"}.linear(pixels.template cast<Scalar>()) +
                    position_at<Scalar>(w.at("model.visual.pos_embed.weight"), places[first + p]))
                       .transpose();
      }
      for (std::int64_t i = 0; i < c.vision.depth; ++i)
        vision_block<Scalar>(w, "blocks." + std::to_string(i) + ".", c.vision.num_heads, &places[first], x);
      for (std::int64_t p = 0; p < of_frame; p += merged) {
        Vector<Scalar> block(merged * c.vision.hidden_size);
        for (std::int64_t i = 0; i < merged; ++i)
          block.segment(i * c.vision.hidden_size, c.vision.hidden_size) =
              VisionPart<Scalar>{w, "merger.norm"}.norm(x.row(p + i).transpose());
        Vector<Scalar> inner = VisionPart<Scalar>{w, "merger.linear_fc1"}.linear(block);
        for (Scalar& value : inner) value = exact_gelu(value);
        rows.row((patch + p) / merged) = VisionPart<Scalar>{w, "merger.linear_fc2"}.linear(inner).transpose();
      }
      patch += of_frame;
    }
  }
  return rows;
}

}  // namespace meshparity::oracle

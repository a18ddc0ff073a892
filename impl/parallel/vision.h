// Which images a rank computes, and how their features come to the tokens that stand for them.
//
// tensor: the ranks of tp share every image of their data rank, each with its heads and widths; context ranks
// compute the same and each uses the features of its own tokens. images: weights are whole, and the images of
// a data rank, whole, are spread over its cp x tp ranks in that order at floor(i*n/ranks); features are
// gathered, over tp and then over cp. Nothing here depends on where a cut of the tokens falls: a token knows
// its feature by its number among the placeholders of the whole batch.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "harness/types/batch.h"
#include "harness/types/model_config.h"
#include "impl/comm/comm.h"
#include "impl/parallel/token_layout.h"

namespace meshparity::impl {

// Rows of a stream that are placeholders, and the rows of the data rank's features [F, D] (images, then
// videos, in the batch's order) that belong there.
struct FeaturePlaces {
  at::Tensor rows, features;
};

// The images of one micro-batch on one rank.
struct VisionPart {
  bool whole = false;     // weights are whole and images spread (--vision images)
  bool sequence = false;  // the ranks of tp hold different tokens (sp)
  // Of the images that this rank computes.
  std::vector<Grid> grids;
  at::Tensor pixels;  // [P, patch_width]
  // Features per tp rank at this place of cp, and per cp rank: their parts of what is gathered.
  std::vector<std::int64_t> tp_sizes, cp_sizes;
  // In the residual stream, and in that of the next tokens (each of the document of the token before it).
  FeaturePlaces places, next_places;
};

// One per micro-batch; what `layout` holds decides the places. Every rank of the first stage needs them, also
// where there is no image: its collectives are the others' too.
std::vector<VisionPart> make_vision_parts(const Batch& batch, const ModelConfig& config, const Mesh& mesh,
                                          const Flags& flags, const RankCoordinate& at,
                                          const TokenLayout& layout, const at::TensorOptions& options);

// The features [own F, D] of this rank's images -> of all images of the data rank, in order. Backward sums
// over every rank that used them: over cp; over tp with sp alone, for without it the ranks of tp are
// replicas, whose gradients are the same one.
at::Tensor gather_features(Collectives& collectives, const Group& tp, const Group& cp,
                           const at::Tensor& features, const VisionPart& part);

// x with row where.rows[i] replaced by features[where.features[i]]; what stood there gets no gradient.
at::Tensor place_features(const at::Tensor& x, const at::Tensor& features, const FeaturePlaces& where);

// The pixels of the images and videos that have a placeholder among the tokens [begin, end) of the batch, one
// image after another.
std::vector<double> pixels_behind(const Batch& batch, const ModelConfig& config, Range tokens);

// Positions (t, h, w) [3*N] of a batch with images, axis after axis: text counts on all axes; a frame begins
// where the text before it ended, has its rows and columns on the last two, and moves on by its larger side.
std::vector<std::int64_t> rope_index(const Batch& batch, const ModelConfig& config);

}  // namespace meshparity::impl

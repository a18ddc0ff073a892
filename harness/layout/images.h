// Which images of a batch belong to a data rank, and which of them a rank computes: the design's rules of the
// vision tower, for whoever places or counts patches and features.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/mesh.h"

namespace meshparity::layout {

// One image or video. Patches and features are numbered document after document, in a document images before
// videos.
struct ImagePlace {
  std::int64_t first_patch = 0, patches = 0;
  std::int64_t first_feature = 0, features = 0;
};

// The images of a micro-batch's rows that a data rank holds, images before videos, each in the batch's order.
std::vector<ImagePlace> images_of(const Batch& batch, const ModelConfig& config, const Mesh& mesh,
                                  std::int64_t micro_batch, int data_rank);

// Those of them that a rank computes: all with vision=tensor; with vision=images the part of this rank of the
// context and tensor axes, cut at floor.
std::vector<ImagePlace> images_computed(const std::vector<ImagePlace>& images, const Mesh& mesh,
                                        const Flags& flags, const RankCoordinate& at);

}  // namespace meshparity::layout

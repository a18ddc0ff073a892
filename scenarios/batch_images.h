// Images and videos of a batch described by TOML. To models without a vision tower its tokens are all text.
//
//   images = [[33, 2, 4]]      from token 33 on: vision_start, the placeholders of 2 x 4 patches, vision_end
//   videos = [[76, 3, 4, 2]]   from token 76 on 3 frames of 4 x 2 patches, each like an image; a token of
//   text stands between two frames
//
// Pixels lie in (-1, 1), number i of all images (videos) a function of (seed, "pixel_values", i), of videos
// "pixel_values_videos". golden/upstream (Python) draws the same.
#pragma once

#include <string>

#include "harness/types/batch.h"
#include "harness/types/model_config.h"
#include "scenarios/fields.h"

namespace meshparity::scenarios {

// Writes the images into the batch's token ids and draws their pixels; labels are the caller's. Throws
// InputError naming file and field where an image does not lie inside one document behind the one before it,
// is not whole blocks of merge x merge patches, or stands beside `grids`.
void place_images(const Fields& fields, const std::string& file, const ModelConfig& config, Batch& batch);

}  // namespace meshparity::scenarios

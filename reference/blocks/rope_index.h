// Positions on three axes of a document with images, from its tokens and the images' sizes.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/model_config.h"

namespace meshparity::reference {

// token_ids [T] of one document -> [3, T] int64 (time, height, width). Text counts on all three axes. The
// placeholders of an image of (1, h, w) patches all have the time at which the image begins; height and width
// count from there over h/merge rows and w/merge columns, row by row, and what follows goes on max(h,
// w)/merge later. Every frame of a video is an image of its own: text stands between frames. Throws
// InputError where a run of placeholders is not one image, and where images are left over. Source:
// qwen35.md 1.8.
at::Tensor rope_index(const ModelConfig& config, const std::vector<std::int64_t>& token_ids,
                      const std::vector<Grid>& images, const std::vector<Grid>& videos);

}  // namespace meshparity::reference

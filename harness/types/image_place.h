// Images and videos in the place of text: which tokens they take, and the pixels that are drawn for them.
// Batch files and `tokens:` descriptions share it.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/model_config.h"

namespace meshparity {

// One image, or one video, in the token stream: per frame vision_start, the placeholders and vision_end;
// between two frames one token of text, where the library has a timestamp. An image is one frame.
struct ImagePlace {
  std::int64_t begin = 0;  // its first vision_start
  Grid grid = {1, 2, 2};
  bool video = false;

  // Placeholder tokens of one frame.
  std::int64_t placeholders(std::int64_t merge) const { return grid[1] * grid[2] / (merge * merge); }
  std::int64_t frame(std::int64_t i, std::int64_t merge) const {
    return begin + i * (placeholders(merge) + 3);
  }
  // Past its last vision_end.
  std::int64_t end(std::int64_t merge) const { return frame(grid[0], merge) - 1; }
  std::int64_t tokens(std::int64_t merge) const { return end(merge) - begin; }
};

// Writes the special tokens of `places`, which lie in `batch` and do not overlap, and draws their pixels,
// uniform in [-1, 1), from `seed`. For a model with a tower.
void write_images(std::vector<ImagePlace> places, std::uint64_t seed, const ModelConfig& config,
                  Batch& batch);

// The next token of the document as every token's label, but where it is a placeholder.
// `masked`: [N] tokens that get none either.
void label_tokens(const std::vector<bool>& masked, const ModelConfig& config, Batch& batch);

}  // namespace meshparity

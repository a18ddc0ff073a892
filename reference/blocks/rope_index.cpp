#include "reference/blocks/rope_index.h"

#include <algorithm>
#include <deque>

#include "harness/types/error.h"

namespace meshparity::reference {
namespace {

struct Frame {
  std::int64_t rows, columns;  // of placeholder tokens
};

std::deque<Frame> frames_of(const std::vector<Grid>& grids, std::int64_t merge) {
  std::deque<Frame> frames;
  for (const Grid& grid : grids)
    for (std::int64_t frame = 0; frame < grid[0]; ++frame)
      frames.push_back({grid[1] / merge, grid[2] / merge});
  return frames;
}

}  // namespace

at::Tensor rope_index(const ModelConfig& config, const std::vector<std::int64_t>& token_ids,
                      const std::vector<Grid>& images, const std::vector<Grid>& videos) {
  const std::int64_t merge = config.vision.spatial_merge_size;
  std::deque<Frame> of_images = frames_of(images, merge), of_videos = frames_of(videos, merge);
  const auto tokens = static_cast<std::int64_t>(token_ids.size());
  const at::Tensor positions = at::empty({3, tokens}, at::kLong);
  auto place = positions.accessor<std::int64_t, 2>();
  std::int64_t next = 0;
  for (std::int64_t begin = 0, end = 0; begin < tokens; begin = end) {
    const std::int64_t id = token_ids[begin];
    end = begin + 1;
    if (id != config.image_token_id && id != config.video_token_id) {
      for (std::int64_t axis = 0; axis < 3; ++axis) place[axis][begin] = next;
      ++next;
      continue;
    }
    while (end < tokens && token_ids[end] == id) ++end;
    std::deque<Frame>& waiting = id == config.image_token_id ? of_images : of_videos;
    const std::string run = "the " + std::to_string(end - begin) + " placeholders from token " +
                            std::to_string(begin) + " of a document on";
    if (waiting.empty()) throw InputError("inputs/token_ids: " + run + " have no image");
    const Frame frame = waiting.front();
    waiting.pop_front();
    if (frame.rows * frame.columns != end - begin)
      throw InputError("inputs/token_ids: " + run + " are not the next image, which has " +
                       std::to_string(frame.rows) + " x " + std::to_string(frame.columns));
    for (std::int64_t i = 0; i < end - begin; ++i) {
      place[0][begin + i] = next;
      place[1][begin + i] = next + i / frame.columns;
      place[2][begin + i] = next + i % frame.columns;
    }
    next += std::max(frame.rows, frame.columns);
  }
  if (!of_images.empty() || !of_videos.empty())
    throw InputError("inputs/token_ids: a document has fewer runs of placeholders than images and frames");
  return positions;
}

}  // namespace meshparity::reference

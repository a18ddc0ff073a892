#include "harness/types/image_place.h"

#include <algorithm>

#include "harness/types/generator.h"

namespace meshparity {
namespace {

VisionInput drawn_input(const std::vector<ImagePlace>& places, bool video, std::uint64_t seed,
                        const ModelConfig& config) {
  VisionInput input;
  for (const ImagePlace& place : places)
    if (place.video == video) input.grids.push_back(place.grid);
  const Generator generator(seed, video ? "pixel_values_videos" : "pixel_values");
  const std::int64_t count = input.patches() * config.vision.patch_width();
  for (std::int64_t i = 0; i < count; ++i)
    input.pixels.push_back(2 * generator.uniform(static_cast<std::uint64_t>(i)) - 1);
  return input;
}

}  // namespace

void write_images(std::vector<ImagePlace> places, std::uint64_t seed, const ModelConfig& config,
                  Batch& batch) {
  std::stable_sort(places.begin(), places.end(),
                   [](const ImagePlace& a, const ImagePlace& b) { return a.begin < b.begin; });
  const std::int64_t merge = config.vision.spatial_merge_size;
  for (const ImagePlace& place : places)
    for (std::int64_t i = 0; i < place.grid[0]; ++i) {
      const auto first = batch.token_ids.begin() + place.frame(i, merge);
      const std::int64_t inside = place.placeholders(merge);
      *first = config.vision_start_token_id;
      std::fill_n(first + 1, inside, place.video ? config.video_token_id : config.image_token_id);
      *(first + 1 + inside) = config.vision_end_token_id;
    }
  batch.images = drawn_input(places, false, seed, config);
  batch.videos = drawn_input(places, true, seed, config);
}

void label_tokens(const std::vector<bool>& masked, const ModelConfig& config, Batch& batch) {
  const auto is_placeholder = [&](std::int64_t id) {
    return config.has_vision() && (id == config.image_token_id || id == config.video_token_id);
  };
  batch.labels.assign(batch.token_ids.size(), kIgnoreLabel);
  for (std::int64_t d = 0; d < batch.documents(); ++d)
    for (std::int64_t t = batch.document(d).begin; t + 1 < batch.document(d).end; ++t)
      if (!masked[t] && !is_placeholder(batch.token_ids[t + 1])) batch.labels[t] = batch.token_ids[t + 1];
}

}  // namespace meshparity

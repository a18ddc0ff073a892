#include "scenarios/batch_images.h"

#include <algorithm>

#include "harness/types/image_place.h"

namespace meshparity::scenarios {
namespace {

struct Placed : ImagePlace {
  std::string field;
};

std::vector<Placed> read_placed(const Fields& f, const std::string& file, const char* key, bool video,
                                const ModelConfig& config, std::int64_t tokens) {
  std::vector<Placed> list;
  if (!f.has(key)) return list;
  const Json& entries = f.raw(key);
  const std::string form = video ? "[first token, frames, rows, columns]" : "[first token, rows, columns]";
  if (!entries.is_array()) f.fail(key, "must be a list of " + form);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    Placed placed;
    placed.field = key + ("[" + std::to_string(i) + "]");
    const std::size_t numbers = video ? 4 : 3;
    if (!entries[i].is_array() || entries[i].size() != numbers) f.fail(placed.field, "must be " + form);
    const auto number = [&](std::size_t at, std::int64_t least) {
      return whole_of(entries[i][at], file, placed.field + "[" + std::to_string(at) + "]", least, 4 * tokens);
    };
    placed.begin = number(0, 0);
    placed.grid = {video ? number(1, 1) : 1, number(numbers - 2, 1), number(numbers - 1, 1)};
    const std::int64_t merge = config.vision.spatial_merge_size;
    if (placed.grid[1] % merge || placed.grid[2] % merge)
      f.fail(placed.field, "rows and columns must be multiples of " + std::to_string(merge));
    placed.video = video;
    list.push_back(std::move(placed));
  }
  return list;
}

void check_places(const Fields& f, std::vector<Placed> all, std::int64_t merge, const Batch& batch) {
  std::stable_sort(all.begin(), all.end(),
                   [](const Placed& a, const Placed& b) { return a.begin < b.begin; });
  std::int64_t following = 0;
  for (const Placed& placed : all) {
    const auto& ends = batch.document_offsets;
    const auto end = std::upper_bound(ends.begin(), ends.end(), placed.begin);
    if (end == ends.end() || placed.end(merge) > *end)
      f.fail(placed.field, "does not lie inside one document");
    if (placed.begin < following) f.fail(placed.field, "begins before the end of the one before it");
    following = placed.end(merge);
  }
}

}  // namespace

void place_images(const Fields& f, const std::string& file, const ModelConfig& config, Batch& batch) {
  if (!config.has_vision()) return;
  const auto images = read_placed(f, file, "images", false, config, batch.tokens());
  const auto videos = read_placed(f, file, "videos", true, config, batch.tokens());
  if (images.empty() && videos.empty()) return;
  if (f.has("grids")) f.fail("grids", "stands beside images, which have positions of their own");
  std::vector<Placed> all = images;
  all.insert(all.end(), videos.begin(), videos.end());
  check_places(f, all, config.vision.spatial_merge_size, batch);
  write_images({all.begin(), all.end()}, static_cast<std::uint64_t>(f.whole("seed", 0, INT64_MAX)), config,
               batch);
}

}  // namespace meshparity::scenarios

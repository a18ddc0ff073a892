#include "harness/layout/images.h"

#include <algorithm>

namespace meshparity::layout {
namespace {

// The document of every image of one kind: images take the tokens of their id in order, all in one document.
std::vector<std::int64_t> documents_of(const Batch& batch, const VisionInput& input, std::int64_t id,
                                       std::int64_t merged) {
  std::vector<std::int64_t> documents;
  std::size_t image = 0;
  for (std::int64_t d = 0; d < batch.documents(); ++d) {
    const Range tokens = batch.document(d);
    auto left = std::count(batch.token_ids.begin() + tokens.begin, batch.token_ids.begin() + tokens.end, id);
    while (left > 0 && image < input.grids.size()) {
      left -= patches_of(input.grids[image++]) / merged;
      documents.push_back(d);
    }
  }
  return documents;
}

}  // namespace

std::vector<ImagePlace> images_of(const Batch& batch, const ModelConfig& config, const Mesh& mesh,
                                  std::int64_t micro_batch, int data_rank) {
  if (!config.has_vision()) return {};
  const std::int64_t merged = config.vision.merged_patches();
  struct Image {
    ImagePlace place;
    std::int64_t document;
  };
  std::vector<Image> all;  // images, then videos
  const auto add = [&](const VisionInput& input, std::int64_t id) {
    const auto documents = documents_of(batch, input, id, merged);
    for (std::size_t i = 0; i < input.grids.size(); ++i) {
      const std::int64_t patches = patches_of(input.grids[i]);
      all.push_back({{0, patches, 0, patches / merged}, documents.at(i)});
    }
  };
  add(batch.images, config.image_token_id);
  add(batch.videos, config.video_token_id);
  std::int64_t patches = 0, features = 0;
  for (std::int64_t d = 0; d < batch.documents(); ++d)
    for (Image& image : all) {
      if (image.document != d) continue;
      image.place.first_patch = patches, image.place.first_feature = features;
      patches += image.place.patches, features += image.place.features;
    }
  std::vector<ImagePlace> out;
  const Range rows = batch.micro_batch_rows(micro_batch);
  for (const Image& image : all) {
    const auto above = std::upper_bound(batch.row_offsets.begin(), batch.row_offsets.end(), image.document);
    const std::int64_t row = above - batch.row_offsets.begin() - 1 - rows.begin;
    if (row >= 0 && row < rows.size() && row % data_ranks(mesh) == data_rank) out.push_back(image.place);
  }
  return out;
}

std::vector<ImagePlace> images_computed(const std::vector<ImagePlace>& images, const Mesh& mesh,
                                        const Flags& flags, const RankCoordinate& at) {
  if (flags.vision == "tensor") return images;
  const Range own = cut(static_cast<std::int64_t>(images.size()), mesh.cp() * mesh.tp,
                        cp_index(mesh, at) * mesh.tp + at.tp);
  return {images.begin() + own.begin, images.begin() + own.end};
}

}  // namespace meshparity::layout

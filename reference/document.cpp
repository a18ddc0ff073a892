#include "reference/document.h"

#include <algorithm>

#include "reference/blocks/rope_index.h"

namespace meshparity::reference {
namespace {

// The images of `input` whose placeholders (tokens of this id) lie in the document.
Document::Sight sight_of(const VisionInput& input, std::int64_t id, const ModelConfig& config,
                         const Batch& batch, Range tokens, const at::TensorOptions& options) {
  Document::Sight sight;
  if (input.empty()) return sight;
  const auto first = batch.token_ids.begin();
  const std::int64_t merged = config.vision.merged_patches(), width = config.vision.patch_width();
  const std::int64_t begin = merged * std::count(first, first + tokens.begin, id);
  const std::int64_t end = merged * std::count(first, first + tokens.end, id);
  std::int64_t patch = 0;
  for (const Grid& grid : input.grids) {
    if (begin <= patch && patch < end) sight.grids.push_back(grid);
    patch += patches_of(grid);
  }
  if (sight.grids.empty()) return sight;
  const std::vector<double> pixels(input.pixels.begin() + begin * width, input.pixels.begin() + end * width);
  sight.patches = at::tensor(pixels, at::kDouble).view({end - begin, width}).to(options);
  return sight;
}

}  // namespace

Document document_of(const ModelConfig& config, const Batch& batch, std::int64_t d,
                     const at::TensorOptions& options) {
  const Range tokens = batch.document(d);
  const std::vector<std::int64_t> ids(batch.token_ids.begin() + tokens.begin,
                                      batch.token_ids.begin() + tokens.end);
  Document document;
  document.token_ids = at::tensor(ids, at::kLong);
  document.images = sight_of(batch.images, config.image_token_id, config, batch, tokens, options);
  document.videos = sight_of(batch.videos, config.video_token_id, config, batch, tokens, options);
  if (!batch.position_ids.empty())
    document.positions = at::tensor(batch.position_ids, at::kLong)
                             .view({3, batch.tokens()})
                             .narrow(1, tokens.begin, tokens.size());
  else if (config.has_vision())
    document.positions = rope_index(config, ids, document.images.grids, document.videos.grids);
  else
    document.positions = at::arange(tokens.size(), at::kLong).expand({3, tokens.size()});
  return document;
}

}  // namespace meshparity::reference

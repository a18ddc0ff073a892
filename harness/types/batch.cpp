#include "harness/types/batch.h"

#include <cmath>
#include <utility>

#include "harness/types/error.h"
#include "harness/types/generator.h"

namespace meshparity {
namespace {

void check_offsets(const std::string& file, const char* field, const std::vector<std::int64_t>& offsets,
                   std::int64_t end) {
  if (offsets.size() < 2 || offsets.front() != 0 || offsets.back() != end)
    throw InputError(file, field, "must rise from 0 to " + std::to_string(end));
  for (std::size_t i = 1; i < offsets.size(); ++i)
    if (offsets[i] < offsets[i - 1]) throw InputError(file, field, "falls at entry " + std::to_string(i));
}

constexpr std::uint64_t kSampledSeed = 1;

double drawn(const char* name, std::int64_t token) {
  return Generator(kSampledSeed, name).uniform(static_cast<std::uint64_t>(token));
}

// Throws unless the images (videos) are whole, fill exactly the tokens of their id, and none crosses a
// document.
class VisionCheck {
 public:
  VisionCheck(const std::string& file, const Batch& batch, const ModelConfig& config)
      : file_(file), batch_(batch), config_(config) {}

  void check(const VisionInput& input, const std::string& kind, std::int64_t id) const {
    const std::string grids = "inputs/" + kind + "_grid_thw",
                      pixels = kind == "image" ? "inputs/pixel_values" : "inputs/pixel_values_videos";
    if (!config_.has_vision()) {
      if (!input.empty() || !input.pixels.empty())
        throw InputError(file_, grids, "is given, and the model has no vision tower");
      return;
    }
    check_pixels(input, grids, pixels);
    check_tokens(input, kind, grids, id);
  }

 private:
  void check_pixels(const VisionInput& input, const std::string& grids, const std::string& pixels) const {
    const std::int64_t merge = config_.vision.spatial_merge_size;
    for (std::size_t i = 0; i < input.grids.size(); ++i) {
      const Grid& g = input.grids[i];
      constexpr std::int64_t kMost = std::int64_t{1} << 20;
      const bool fits = g[0] >= 1 && g[1] >= 1 && g[2] >= 1 && g[0] <= kMost && g[1] <= kMost &&
                        g[2] <= kMost && g[1] % merge == 0 && g[2] % merge == 0;
      if (!fits)
        throw InputError(file_, grids,
                         "entry " + std::to_string(i) + " is " + text(g) +
                             "; rows and columns must be positive multiples of spatial_merge_size=" +
                             std::to_string(merge));
    }
    const std::int64_t width = config_.vision.patch_width();
    if (static_cast<std::int64_t>(input.pixels.size()) != input.patches() * width)
      throw InputError(file_, pixels,
                       "has " + std::to_string(input.pixels.size()) + " elements; " + grids + " has " +
                           std::to_string(input.patches()) + " patches of " + std::to_string(width));
    for (const double value : input.pixels)
      if (!std::isfinite(value)) throw InputError(file_, pixels, "holds a value that is not finite");
  }

  void check_tokens(const VisionInput& input, const std::string& kind, const std::string& grids,
                    std::int64_t id) const {
    std::vector<std::int64_t> documents;  // of every placeholder token
    for (std::int64_t d = 0; d < batch_.documents(); ++d)
      for (std::int64_t t = batch_.document(d).begin; t < batch_.document(d).end; ++t)
        if (batch_.token_ids[t] == id) documents.push_back(d);
    const std::int64_t features = input.patches() / config_.vision.merged_patches();
    if (static_cast<std::int64_t>(documents.size()) != features)
      throw InputError(file_, "inputs/token_ids",
                       "has " + std::to_string(documents.size()) + " " + kind + " tokens (id " +
                           std::to_string(id) + "); " + grids + " fills " + std::to_string(features));
    std::int64_t begin = 0;
    for (std::size_t i = 0; i < input.grids.size(); ++i) {
      const std::int64_t count = patches_of(input.grids[i]) / config_.vision.merged_patches();
      if (documents[begin] != documents[begin + count - 1])
        throw InputError(file_, grids,
                         "entry " + std::to_string(i) + " crosses the end of document " +
                             std::to_string(documents[begin]));
      begin += count;
    }
  }

  static std::string text(const Grid& g) {
    return "(" + std::to_string(g[0]) + ", " + std::to_string(g[1]) + ", " + std::to_string(g[2]) + ")";
  }

  const std::string& file_;
  const Batch& batch_;
  const ModelConfig& config_;
};

}  // namespace

std::int64_t VisionInput::patches() const {
  std::int64_t sum = 0;
  for (const Grid& grid : grids) sum += patches_of(grid);
  return sum;
}

void Batch::validate(const std::string& file, const ModelConfig& config) const {
  validate(file, config.vocab_size);
  const VisionCheck vision(file, *this, config);
  vision.check(images, "image", config.image_token_id);
  vision.check(videos, "video", config.video_token_id);
}

double Batch::advantage(std::int64_t token) const {
  return advantages.empty() ? 2 * drawn("advantages", token) - 1 : advantages[token];
}

double Batch::old_logprob(std::int64_t token) const {
  if (labels[token] == kIgnoreLabel) return 0;
  return old_logprobs.empty() ? -6 * drawn("old_logprobs", token) : old_logprobs[token];
}

void Batch::validate(const std::string& file, std::int64_t vocab_size) const {
  const std::int64_t n = tokens();
  check_offsets(file, "inputs/document_offsets", document_offsets, n);
  check_offsets(file, "inputs/row_offsets", row_offsets, documents());
  check_offsets(file, "inputs/micro_batch_offsets", micro_batch_offsets, rows());
  for (std::int64_t d = 0; d < documents(); ++d)
    if (document(d).size() == 0)
      throw InputError(file, "inputs/document_offsets", "document " + std::to_string(d) + " is empty");
  if (static_cast<std::int64_t>(labels.size()) != n)
    throw InputError(
        file, "inputs/labels",
        "has " + std::to_string(labels.size()) + " entries for " + std::to_string(n) + " tokens");
  if (!position_ids.empty() && static_cast<std::int64_t>(position_ids.size()) != 3 * n)
    throw InputError(file, "inputs/position_ids", "must have 3 x " + std::to_string(n) + " entries");
  for (const auto& [field, values] :
       {std::pair{"inputs/advantages", &advantages}, std::pair{"inputs/old_logprobs", &old_logprobs}}) {
    if (!values->empty() && static_cast<std::int64_t>(values->size()) != n)
      throw InputError(file, field, "must have " + std::to_string(n) + " entries");
    for (const double value : *values)
      if (!std::isfinite(value)) throw InputError(file, field, "holds a value that is not finite");
  }
  for (std::int64_t t = 0; t < n; ++t)
    if (token_ids[t] < 0 || token_ids[t] >= vocab_size)
      throw InputError(file, "inputs/token_ids",
                       "token " + std::to_string(t) + " is " + std::to_string(token_ids[t]) +
                           ", vocabulary is " + std::to_string(vocab_size));
  for (std::int64_t d = 0; d < documents(); ++d)
    for (std::int64_t t = document(d).begin; t < document(d).end; ++t) {
      if (labels[t] == kIgnoreLabel) continue;
      const bool last = t + 1 == document(d).end;
      if (last || labels[t] != token_ids[t + 1])
        throw InputError(
            file, "inputs/labels",
            "entry " + std::to_string(t) + " is neither -100 nor the next token of its document");
    }
}

}  // namespace meshparity

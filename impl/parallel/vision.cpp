#include "impl/parallel/vision.h"

#include <algorithm>
#include <numeric>

#include "harness/types/cut.h"
#include "impl/autograd.h"
#include "impl/parallel/index_tensor.h"

namespace meshparity::impl {
namespace {

constexpr std::int64_t kNone = -1;

// One image or video of the batch.
struct Item {
  const VisionInput* input = nullptr;
  Grid grid{};
  std::int64_t first_patch = 0;  // in its input
  std::int64_t features = 0;
  std::int64_t first_token = 0;  // in the batch
};

// All items of a batch, images before videos, and which feature of which item every token stands for.
struct Placeholders {
  std::vector<Item> items;
  std::vector<std::int64_t> item, feature;  // [N], kNone where the token is none

  Placeholders(const Batch& batch, const ModelConfig& config)
      : item(batch.tokens(), kNone), feature(batch.tokens(), kNone) {
    add(batch, batch.images, config.image_token_id, config.vision.merged_patches());
    add(batch, batch.videos, config.video_token_id, config.vision.merged_patches());
  }

 private:
  void add(const Batch& batch, const VisionInput& input, std::int64_t id, std::int64_t merged) {
    std::int64_t token = 0, patch = 0;
    for (const Grid& grid : input.grids) {
      const std::int64_t features = patches_of(grid) / merged;
      const auto number = static_cast<std::int64_t>(items.size());
      for (std::int64_t f = 0; f < features; ++token) {
        if (batch.token_ids.at(token) != id) continue;
        if (f == 0) items.push_back({&input, grid, patch, features, token});
        item[token] = number, feature[token] = f++;
      }
      patch += patches_of(grid);
    }
  }
};

// The items whose row a data rank has in a micro-batch.
std::vector<std::int64_t> items_of(const Placeholders& all, const Batch& batch, const Mesh& mesh,
                                   std::int64_t micro_batch, std::int64_t data) {
  std::vector<std::int64_t> list;
  const Range rows = batch.micro_batch_rows(micro_batch);
  for (std::size_t i = 0; i < all.items.size(); ++i)
    for (std::int64_t row = rows.begin + data; row < rows.end; row += data_ranks(mesh)) {
      const Range tokens = batch.row_tokens(row);
      if (all.items[i].first_token >= tokens.begin && all.items[i].first_token < tokens.end)
        list.push_back(static_cast<std::int64_t>(i));
    }
  return list;
}

at::Tensor pixels_of(const Placeholders& all, const std::vector<std::int64_t>& items, std::int64_t width,
                     const at::TensorOptions& options) {
  std::vector<double> rows;
  for (const std::int64_t i : items) {
    const Item& item = all.items[i];
    const auto begin = item.input->pixels.begin() + item.first_patch * width;
    rows.insert(rows.end(), begin, begin + patches_of(item.grid) * width);
  }
  const auto patches = static_cast<std::int64_t>(rows.size()) / width;
  return at::tensor(rows, at::kDouble).view({patches, width}).to(options);
}

// Spreads the items over the cp x tp ranks; returns those of this one.
std::vector<std::int64_t> spread(const Placeholders& all, const std::vector<std::int64_t>& items,
                                 const Mesh& mesh, const RankCoordinate& at, VisionPart& part) {
  const auto n = static_cast<std::int64_t>(items.size());
  std::vector<std::int64_t> own;
  part.cp_sizes.assign(mesh.cp(), 0);
  part.tp_sizes.assign(mesh.tp, 0);
  for (int c = 0; c < mesh.cp(); ++c)
    for (int t = 0; t < mesh.tp; ++t) {
      const Range mine = cut(n, mesh.cp() * mesh.tp, c * mesh.tp + t);
      std::int64_t features = 0;
      for (std::int64_t i = mine.begin; i < mine.end; ++i) features += all.items[items[i]].features;
      part.cp_sizes[c] += features;
      if (c != cp_index(mesh, at)) continue;
      part.tp_sizes[t] = features;
      if (t == at.tp) own.assign(items.begin() + mine.begin, items.begin() + mine.end);
    }
  return own;
}

// Where the residual stream, or that of the tokens `ahead` of its own in their documents, holds placeholders.
FeaturePlaces find_places(const Placeholders& all, const std::vector<std::int64_t>& items, const Batch& batch,
                          const MicroBatchTokens& tokens, Range residual, std::int64_t ahead,
                          at::Device device) {
  std::vector<std::int64_t> begin(all.items.size(), kNone), rows, features;
  std::int64_t next = 0;
  for (const std::int64_t i : items) begin[i] = next, next += all.items[i].features;
  for (std::int64_t i = residual.begin; i < residual.end; ++i) {
    if (tokens.global[i] == kPadding) continue;
    const std::int64_t token = tokens.global[i] + ahead;
    if (token >= batch.document(tokens.documents[i]).end || all.item[token] == kNone) continue;
    rows.push_back(i - residual.begin);
    features.push_back(begin[all.item[token]] + all.feature[token]);
  }
  return {index_tensor(rows, device), index_tensor(features, device)};
}

}  // namespace

std::vector<VisionPart> make_vision_parts(const Batch& batch, const ModelConfig& config, const Mesh& mesh,
                                          const Flags& flags, const RankCoordinate& at,
                                          const TokenLayout& layout, const at::TensorOptions& options) {
  const Placeholders all(batch, config);
  std::vector<VisionPart> parts;
  for (std::size_t m = 0; m < layout.micro_batches.size(); ++m) {
    const MicroBatchTokens& tokens = layout.micro_batches[m];
    VisionPart part;
    part.whole = flags.vision == "images";
    part.sequence = layout.sequence;
    const auto items = items_of(all, batch, mesh, static_cast<std::int64_t>(m), at.dp * mesh.fsdp + at.fsdp);
    const auto own = part.whole ? spread(all, items, mesh, at, part) : items;
    part.pixels = pixels_of(all, own, config.vision.patch_width(), options);
    for (const std::int64_t i : own) part.grids.push_back(all.items[i].grid);
    const Range residual = layout.sequence ? cut(tokens.tokens(), mesh.tp, at.tp) : Range{0, tokens.tokens()};
    part.places = find_places(all, items, batch, tokens, residual, 0, options.device());
    part.next_places = find_places(all, items, batch, tokens, residual, 1, options.device());
    parts.push_back(std::move(part));
  }
  return parts;
}

at::Tensor gather_features(Collectives& collectives, const Group& tp, const Group& cp,
                           const at::Tensor& features, const VisionPart& part) {
  if (!part.whole) return part.sequence ? copy_to(collectives, tp, features, "visual.features") : features;
  const auto over_tp = part.sequence ? gather_from : join_from;
  const at::Tensor of_tp = over_tp(collectives, tp, features, part.tp_sizes, 0, "visual.features.tp");
  return gather_from(collectives, cp, of_tp, part.cp_sizes, 0, "visual.features.cp");
}

at::Tensor place_features(const at::Tensor& x, const at::Tensor& features, const FeaturePlaces& where) {
  const at::Tensor places = where.rows, rows = where.features;
  at::Tensor y;
  {
    const BelowAutograd guard;
    y = x.index_copy(0, places, features.index_select(0, rows));
  }
  return attach("place_features", {x, features}, {y}, [features, places, rows](const Tensors& grads) {
    return Tensors{grads[0].index_fill(0, places, 0),
                   at::zeros_like(features).index_add_(0, rows, grads[0].index_select(0, places))};
  })[0];
}

std::vector<double> pixels_behind(const Batch& batch, const ModelConfig& config, Range tokens) {
  const Placeholders all(batch, config);
  const std::int64_t width = config.vision.patch_width();
  std::vector<double> pixels;
  std::int64_t last = kNone;
  for (std::int64_t t = tokens.begin; t < tokens.end; ++t) {
    if (all.item[t] == kNone || all.item[t] == last) continue;
    last = all.item[t];
    const Item& item = all.items[last];
    const auto begin = item.input->pixels.begin() + item.first_patch * width;
    pixels.insert(pixels.end(), begin, begin + patches_of(item.grid) * width);
  }
  return pixels;
}

std::vector<std::int64_t> rope_index(const Batch& batch, const ModelConfig& config) {
  const Placeholders all(batch, config);
  const std::int64_t n = batch.tokens(), merge = config.vision.spatial_merge_size;
  std::vector<std::int64_t> positions(3 * n);
  for (std::int64_t d = 0; d < batch.documents(); ++d) {
    std::int64_t next = 0;
    for (std::int64_t t = batch.document(d).begin; t < batch.document(d).end; ++t) {
      if (all.item[t] == kNone) {
        for (std::int64_t axis = 0; axis < 3; ++axis) positions[axis * n + t] = next;
        ++next;
        continue;
      }
      // Frames of a video count as images of their own: their tokens stand apart.
      const Grid& grid = all.items[all.item[t]].grid;
      const std::int64_t rows = grid[1] / merge, columns = grid[2] / merge;
      const std::int64_t place = all.feature[t] % (rows * columns);
      positions[t] = next, positions[n + t] = next + place / columns,
      positions[2 * n + t] = next + place % columns;
      if (place == rows * columns - 1) next += std::max(rows, columns);
    }
  }
  return positions;
}

}  // namespace meshparity::impl

// What follows from the grids of images alone: places of patches, position taps, rotary tables, frames.
#include <cmath>

#include "impl/blocks/vision.h"
#include "impl/parallel/index_tensor.h"

namespace meshparity::impl {
namespace {

struct Place {
  std::int64_t row, column, rows, columns;  // of the patch, and of its frame
};

// The places of all patches, in their order.
std::vector<Place> places_of(const std::vector<Grid>& grids, std::int64_t merge) {
  std::vector<Place> places;
  for (const Grid& grid : grids)
    for (std::int64_t frame = 0; frame < grid[0]; ++frame)
      for (std::int64_t i = 0; i < grid[1] * grid[2]; ++i) {
        const std::int64_t block = i / (merge * merge), inside = i % (merge * merge),
                           across = grid[2] / merge;
        places.push_back({block / across * merge + inside / merge, block % across * merge + inside % merge,
                          grid[1], grid[2]});
      }
  return places;
}

// The two taps of place i of n on a side of `side` points whose ends are the ends of n.
struct Taps {
  std::int64_t at[2];
  double weight[2];
};
Taps taps_of(std::int64_t i, std::int64_t n, std::int64_t side) {
  const std::int64_t steps = n > 1 ? n - 1 : 1, scaled = i * (side - 1);
  const std::int64_t low = scaled / steps;
  const double part = static_cast<double>(scaled % steps) / static_cast<double>(steps);
  return {{low, low + 1 < side ? low + 1 : side - 1}, {1 - part, part}};
}

void build_taps(const std::vector<Place>& places, std::int64_t side, const PackingOptions& options,
                VisionPatches& out) {
  const auto n = static_cast<std::int64_t>(places.size());
  std::vector<std::int64_t> rows;
  std::vector<double> weights;
  for (const Place& p : places) {
    const Taps vertical = taps_of(p.row, p.rows, side), across = taps_of(p.column, p.columns, side);
    for (const int v : {0, 1})
      for (const int a : {0, 1}) {
        rows.push_back(vertical.at[v] * side + across.at[a]);
        weights.push_back(vertical.weight[v] * across.weight[a]);
      }
  }
  out.taps = index_tensor(rows, options.device).view({n, 4});
  out.tap_weights = at::tensor(weights, at::kDouble).view({n, 4}).to(options.device, options.dtype);
}

// A quarter of the head turns with the row, the next with the column, and the second half as the first.
void build_axial_rope(const std::vector<Place>& places, std::int64_t d, PackedTokens& out) {
  constexpr double kTheta = 1e4;
  const std::int64_t n = out.tokens, half = d / 2, quarter = d / 4;
  at::Tensor cos = at::empty({n, 1, d}, at::kDouble), sin = at::empty({n, 1, d}, at::kDouble);
  auto* c = cos.data_ptr<double>();
  auto* s = sin.data_ptr<double>();
  std::vector<std::int64_t> partner;
  for (std::int64_t j = 0; j < d; ++j) partner.push_back((j + half) % d);
  for (std::int64_t p = 0; p < n; ++p)
    for (std::int64_t j = 0; j < half; ++j) {
      const double frequency =
          std::pow(kTheta, -2.0 * static_cast<double>(j % quarter) / static_cast<double>(half));
      const double angle = static_cast<double>(j < quarter ? places[p].row : places[p].column) * frequency;
      c[p * d + j] = c[p * d + half + j] = std::cos(angle);
      s[p * d + j] = -std::sin(angle);
      s[p * d + half + j] = std::sin(angle);
    }
  out.rope_cos = cos.to(out.options.device, out.options.dtype);
  out.rope_sin = sin.to(out.options.device, out.options.dtype);
  out.rope_partner = index_tensor(partner, out.options.device);
}

}  // namespace

VisionPatches make_vision_patches(const std::vector<Grid>& grids, const VisionConfig& config,
                                  const PackingOptions& options) {
  VisionPatches out;
  const std::vector<Place> places = places_of(grids, config.spatial_merge_size);
  out.tokens.options = options;
  out.tokens.tokens = static_cast<std::int64_t>(places.size());
  const auto side =
      static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(config.num_position_embeddings))));
  build_taps(places, side, options, out);
  build_axial_rope(places, config.head_dim(), out.tokens);
  // Every patch of a frame sees all of it, and nothing else.
  const at::Tensor nothing_hidden =
      at::zeros({1, 1}, at::TensorOptions(options.dtype).device(options.device));
  std::int64_t begin = 0;
  for (const Grid& grid : grids)
    for (std::int64_t frame = 0; frame < grid[0]; ++frame) {
      const std::int64_t end = begin + grid[1] * grid[2];
      out.tokens.attention.push_back({begin, end, begin, nothing_hidden});
      begin = end;
    }
  return out;
}

}  // namespace meshparity::impl

// The vision tower on the first stage: its blocks over tp, or whole images spread and their features
// gathered.
#include "harness/layout/communication_sites.h"
#include "harness/layout/images.h"

namespace meshparity::layout {
namespace {

struct Counts {
  std::int64_t patches = 0, features = 0;
};

Counts count(const std::vector<ImagePlace>& images) {
  Counts counts;
  for (const ImagePlace& image : images) counts.patches += image.patches, counts.features += image.features;
  return counts;
}

// A tensor-parallel block of the tower: its input's gradients are summed, and its output.
void block(const RankSends& sends, const RankPlace& place, const std::string& entered,
           const std::string& left, std::int64_t in, std::int64_t out) {
  sends.all_reduce(place.tp, entered, in, Direction::backward);
  sends.all_reduce(place.tp, left, out);
}

}  // namespace

void vision_sites(const RankSends& sends, const RankPlace& place, std::int64_t micro_batch) {
  const LayoutMap& map = place.map;
  const VisionConfig& v = map.config().vision;
  const Mesh& mesh = map.mesh();
  const std::int64_t width = map.config().hidden_size;
  const auto images = images_of(map.batch(), map.config(), mesh, micro_batch, data_rank(mesh, place.rank));
  if (map.flags().vision == "tensor") {
    const Counts all = count(images);
    const std::int64_t stream = all.patches * v.hidden_size, features = all.features * width;
    for (std::int64_t i = 0; i < v.depth; ++i) {
      const std::string at = "visual.blocks." + std::to_string(i);
      block(sends, place, at + ".attn", at + ".attn.proj", stream, stream);
      block(sends, place, at + ".mlp", at + ".mlp.linear_fc2", stream, stream);
    }
    block(sends, place, "visual.merger", "visual.merger.linear_fc2", stream, features);
    // With sp each rank of tp puts the features into its own tokens.
    if (map.flags().sp) sends.all_reduce(place.tp, "visual.features", features, Direction::backward);
    return;
  }
  RankCoordinate at = place.at;
  const auto features_of = [&](const RankCoordinate& c) {
    return count(images_computed(images, mesh, map.flags(), c)).features * width;
  };
  const std::int64_t own = features_of(at);
  std::int64_t of_tp = 0;
  for (at.tp = 0; at.tp < mesh.tp; ++at.tp) of_tp += features_of(at);
  sends.all_gather(place.tp, "visual.features.tp", own);
  if (map.flags().sp) sends.reduce_scatter(place.tp, "visual.features.tp", of_tp, own, Direction::backward);
  sends.all_gather(place.cp, "visual.features.cp", of_tp);
  sends.reduce_scatter(place.cp, "visual.features.cp", count(images).features * width, of_tp,
                       Direction::backward);
}

}  // namespace meshparity::layout

// Which images a rank computes and where their patches lie, worked out by hand on a small batch.
#include "harness/layout/images.h"

#include <catch2/catch.hpp>

#include "harness/layout/layout.h"

namespace meshparity::layout::images_test {
namespace {

ModelConfig tower() {
  ModelConfig c;
  c.vocab_size = 9, c.hidden_size = 2, c.num_hidden_layers = 2, c.full_attention = {false, false};
  c.vision.depth = 2, c.vision.hidden_size = 4, c.vision.num_heads = 2, c.vision.patch_size = 1;
  c.image_token_id = 7, c.video_token_id = 8;
  return c;
}

// Rows: a video and an image (document 0), an image (1 and 2: text and image), text; the last is a
// micro-batch of its own with an image. Features 2 + 1, 1, -, 2.
Batch batch() {
  Batch b;
  b.token_ids = {8, 1, 8, 7, 2, 3, 7, 4, 5, 7, 7};
  b.labels.assign(11, kIgnoreLabel);
  b.document_offsets = {0, 5, 6, 7, 9, 11};
  b.row_offsets = {0, 1, 3, 4, 5};
  b.micro_batch_offsets = {0, 3, 4};
  b.images.grids = {{1, 2, 2}, {1, 2, 2}, {1, 4, 2}};
  b.videos.grids = {{2, 2, 2}};
  return b;
}

std::vector<std::int64_t> firsts(const std::vector<ImagePlace>& images) {
  std::vector<std::int64_t> list;
  for (const auto& image : images) list.push_back(image.first_patch);
  return list;
}

std::vector<std::int64_t> held(const LayoutMap& map, const char* key, int rank) {
  return map.local(key, rank).indices[0];
}

using List = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("a data rank has the images of its rows, numbered document after document") {
  const ModelConfig c = tower();
  const Batch b = batch();
  // Document 0: image of patches 0..3, video of 4..11; then 12..15 and 16..23.
  CHECK(firsts(images_of(b, c, Mesh::parse("dp1"), 0, 0)) == List{0, 12, 4});
  CHECK(firsts(images_of(b, c, Mesh::parse("dp2"), 0, 0)) == List{0, 4});
  CHECK(firsts(images_of(b, c, Mesh::parse("dp2"), 0, 1)) == List{12});
  CHECK(firsts(images_of(b, c, Mesh::parse("dp2"), 1, 0)) == List{16});
  CHECK(images_of(b, c, Mesh::parse("dp2"), 1, 1).empty());
  CHECK(images_of(b, c, Mesh::parse("dp1"), 0, 0)[2].first_feature == 1);
  ModelConfig text = c;
  text.vision = {};
  CHECK(images_of(b, text, Mesh::parse("dp1"), 0, 0).empty());
}

TEST_CASE("images are spread over cp and tp, whole, and a tower shared by heads sees them all") {
  const ModelConfig c = tower();
  Flags flags;
  const Mesh mesh = Mesh::parse("ring2.tp2");
  const LayoutMap shared(c, mesh, flags, batch(), {});
  flags.vision = "images";
  const LayoutMap spread(c, mesh, flags, batch(), {});
  for (int rank = 0; rank < 4; ++rank)
    CHECK(held(shared, "activations/visual.merger", rank) == List{0, 3, 1, 2, 4, 5});
  // Three images over four ranks, cut at floor, then one.
  CHECK(held(spread, "activations/visual.merger", 0) == List{});
  CHECK(held(spread, "activations/visual.merger", 1) == List{0});
  CHECK(held(spread, "activations/visual.merger", 2) == List{3});
  CHECK(held(spread, "activations/visual.merger", 3) == List{1, 2, 4, 5});
  CHECK(held(spread, "activations/visual.blocks.1", 2) == List{12, 13, 14, 15});
  CHECK(spread.local("activations/visual.patch_embed", 2).global_shape == Shape{24, 4});
  CHECK_THROWS(spread.local("activations/visual.blocks.2", 0));
  const LayoutMap stages(c, Mesh::parse("pp2"), {}, batch(), {});
  CHECK(held(stages, "activations/visual.merger", 1).empty());
}

TEST_CASE("a tower's weights are cut over tp only where it is shared by heads") {
  ModelConfig c = tower();
  PlacementTable table(1);
  table[0].name = "model.visual.blocks.0.attn.proj.weight", table[0].shape = {4, 4};
  table[0].tp_dim = 1, table[0].tp_blocks = {{2, 2, false}}, table[0].tower = true;
  Flags flags;
  const std::string key = "weights/" + table[0].name;
  CHECK(LayoutMap(c, Mesh::parse("tp2"), flags, batch(), table).local(key, 1).local_shape() == Shape{4, 2});
  flags.vision = "images";
  CHECK(LayoutMap(c, Mesh::parse("tp2"), flags, batch(), table).local(key, 1).local_shape() == Shape{4, 4});
  CHECK(LayoutMap(c, Mesh::parse("pp2"), {}, batch(), table).local(key, 1).local_shape() == Shape{0, 4});
}

}  // namespace meshparity::layout::images_test

// Images of a batch must fill its placeholder tokens exactly, fit the tower and stay inside a document.
#include "harness/types/batch.h"

#include <catch2/catch.hpp>

#include "harness/types/error.h"

namespace meshparity::batch_test {
namespace {

using Catch::Contains;

ModelConfig tower() {
  ModelConfig c;
  c.vocab_size = 9;
  c.vision.depth = 1, c.vision.hidden_size = 4, c.vision.num_heads = 1, c.vision.patch_size = 1;
  c.image_token_id = 7, c.video_token_id = 8;
  return c;
}

// Two documents: an image of two tokens in the first, one of one token and a video of two frames in the
// other.
Batch batch() {
  Batch b;
  b.token_ids = {1, 7, 7, 2, 3, 7, 4, 8, 5, 8};
  b.labels.assign(10, kIgnoreLabel);
  b.document_offsets = {0, 4, 10};
  b.row_offsets = {0, 2};
  b.micro_batch_offsets = {0, 1};
  b.images.grids = {{1, 2, 4}, {1, 2, 2}};
  b.videos.grids = {{2, 2, 2}};
  b.images.pixels.assign(12 * 6, 0.5), b.videos.pixels.assign(8 * 6, 0.5);
  return b;
}

template <class Change>
std::string refusal_after(Change change) {
  Batch b = batch();
  ModelConfig config = tower();
  change(b, config);
  try {
    b.validate("f.h5", config);
  } catch (const InputError& e) {
    return e.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("images that fill their placeholder tokens are accepted") {
  CHECK(refusal_after([](Batch&, ModelConfig&) {}) == "accepted");
  CHECK(refusal_after([](Batch& b, ModelConfig&) {
          b.token_ids = {1, 2, 3, 4, 3, 6, 4, 1, 5, 0}, b.images = {}, b.videos = {};
        }) == "accepted");
}

TEST_CASE("a count of placeholder tokens that no image fills is named with both counts") {
  const std::string more = refusal_after([](Batch& b, ModelConfig&) { b.token_ids[0] = 7; });
  CHECK_THAT(more, Contains("f.h5") && Contains("inputs/token_ids") &&
                       Contains("has 4 image tokens (id 7)") && Contains("inputs/image_grid_thw fills 3"));
  CHECK_THAT(refusal_after([](Batch& b, ModelConfig&) { b.token_ids[9] = 5; }),
             Contains("has 1 video tokens"));
}

TEST_CASE("grids, pixels and documents that do not fit are named") {
  CHECK_THAT(refusal_after([](Batch& b, ModelConfig&) {
               b.images.grids[0] = {1, 2, 3};
             }),
             Contains("image_grid_thw: entry 0 is (1, 2, 3)"));
  CHECK_THAT(refusal_after([](Batch& b, ModelConfig&) {
               b.videos.grids[0] = {0, 2, 2};
             }),
             Contains("video_grid_thw: entry 0"));
  CHECK_THAT(refusal_after([](Batch& b, ModelConfig&) { b.images.pixels.pop_back(); }),
             Contains("pixel_values: has 71 elements") && Contains("12 patches of 6"));
  CHECK_THAT(refusal_after([](Batch& b, ModelConfig&) { b.videos.pixels[3] = 0.0 / 0.0; }),
             Contains("pixel_values_videos") && Contains("not finite"));
  CHECK_THAT(refusal_after([](Batch& b, ModelConfig&) {
               b.document_offsets = {0, 2, 10};
             }),
             Contains("image_grid_thw: entry 0 crosses the end of document 0"));
  CHECK_THAT(refusal_after([](Batch&, ModelConfig& c) { c.vision = {}; }), Contains("no vision tower"));
}

}  // namespace meshparity::batch_test

// Proves positions of images by numbers a reader can count, and that what does not fit is refused. That they
// are Hugging Face's is shown on goldens, in harness/cli.
#include "reference/blocks/rope_index.h"

#include <catch2/catch.hpp>

#include "harness/types/error.h"
#include "reference/test_models.h"

namespace meshparity::reference::rope_index_test {
namespace {

std::vector<std::int64_t> index_of(const std::vector<std::int64_t>& ids, const std::vector<Grid>& images,
                                   const std::vector<Grid>& videos) {
  const at::Tensor flat = rope_index(tiny_vl(), ids, images, videos).reshape({-1}).contiguous();
  return {flat.const_data_ptr<std::int64_t>(), flat.const_data_ptr<std::int64_t>() + flat.numel()};
}

}  // namespace

TEST_CASE("text counts, an image has rows and columns, what follows goes on behind its larger side") {
  // Two words, an image of 2 x 3 tokens, a word.
  CHECK(index_of({1, 2, 61, 61, 61, 61, 61, 61, 3}, {{1, 4, 6}}, {}) ==
        std::vector<std::int64_t>{0, 1, 2, 2, 2, 2, 2, 2, 5,  //
                                  0, 1, 2, 2, 2, 3, 3, 3, 5,  //
                                  0, 1, 2, 3, 4, 2, 3, 4, 5});
}

TEST_CASE("frames of a video are images of their own") {
  CHECK(index_of({62, 62, 1, 62, 62, 61}, {{1, 2, 2}}, {{2, 4, 2}}) ==
        std::vector<std::int64_t>{0, 0, 2, 3, 3, 5,  //
                                  0, 1, 2, 3, 4, 5,  //
                                  0, 0, 2, 3, 3, 5});
}

TEST_CASE("runs of placeholders that are not the images are refused") {
  CHECK_THROWS_WITH(index_of({61, 61, 1}, {{1, 2, 2}}, {}),
                    Catch::Contains("the 2 placeholders from token 0"));
  CHECK_THROWS_WITH(index_of({1, 61}, {}, {{1, 2, 2}}), Catch::Contains("have no image"));
  CHECK_THROWS_WITH(index_of({61, 1, 1}, {{1, 2, 2}, {1, 2, 2}}, {}), Catch::Contains("fewer runs"));
  // Two images without a word between them are one run to the library too.
  CHECK_THROWS_AS(index_of({61, 61}, {{1, 2, 2}, {1, 2, 2}}, {}), InputError);
}

}  // namespace meshparity::reference::rope_index_test

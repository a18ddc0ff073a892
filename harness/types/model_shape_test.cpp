// Models and batches that a command line describes: every field is read and printed back, defaults are
// pinned, and what is wrong is refused by name.
#include "harness/types/model_shape.h"

#include <catch2/catch.hpp>

#include "harness/types/batch_shape.h"
#include "harness/types/error.h"

namespace meshparity::model_shape_test {

// What is wrong with a text, without the text itself that every error starts with.
template <class Shape>
std::string refusal_of(const std::string& text) {
  try {
    Shape::parse(text);
  } catch (const InputError& error) {
    const std::string what = error.what();
    CHECK(what.rfind(text + ": ", 0) == 0);
    return what.substr(text.size() + 2);
  }
  return "accepted";
}

TEST_CASE("every field of a shape is read and printed back") {
  const std::string text =
      "shape:layers=gag:hidden=9:heads=6/3:head_dim=8:rope=4:gdn=2/6:key=3:value=5:conv=2:vocab=23:experts=6/"
      "2/7:"
      "shared=3:tied=1";
  const ModelShape s = ModelShape::parse(text);
  CHECK(s.text() == text);
  CHECK(s.layers == "gag");
  CHECK(s.hidden == 9);
  CHECK((s.heads == 6 && s.kv_heads == 3 && s.head_dim == 8 && s.rope == 4));
  CHECK((s.gdn_key_heads == 2 && s.gdn_value_heads == 6 && s.gdn_key_dim == 3 && s.gdn_value_dim == 5));
  CHECK((s.conv == 2 && s.vocab == 23 && s.tied));
  CHECK((s.experts == 6 && s.top_k == 2 && s.expert_width == 7 && s.shared == 3));
  const ModelShape dense = ModelShape::parse("shape:ffn=7:tied=0");
  CHECK((dense.ffn == 7 && !dense.tied && !dense.is_moe()));
  CHECK(dense.text() == "shape:ffn=7");
}

TEST_CASE("a shape's defaults never change: old lines would mean other models") {
  const ModelShape s = ModelShape::parse("shape:");
  CHECK(s == ModelShape{});
  CHECK(s.text() == "shape:");
  CHECK((s.layers == "ga" && s.hidden == 4 && s.ffn == 4 && s.vocab == 8 && !s.tied && !s.is_moe()));
  CHECK((s.heads == 2 && s.kv_heads == 1 && s.head_dim == 4 && s.rope == 2));
  CHECK((s.gdn_key_heads == 2 && s.gdn_value_heads == 2 && s.gdn_key_dim == 2 && s.gdn_value_dim == 2));
  CHECK((s.conv == 4 && s.shared == 4));
}

TEST_CASE("a number of layers has attention in every period-th, the fourth where nothing is said") {
  CHECK(ModelShape::parse("shape:layers=5").layers == "gggag");
  CHECK(ModelShape::parse("shape:period=2:layers=5").layers == "gagag");
  CHECK(ModelShape::parse("shape:layers=2:period=1").layers == "aa");
}

TEST_CASE("what is wrong with a shape is named by its field") {
  const auto refusal = refusal_of<ModelShape>;
  CHECK(refusal("shape:heads=4/3") == "heads: 4/3: the key-value heads must divide the heads");
  CHECK(refusal("shape:gdn=3/4") == "gdn: 3/4: the key heads must divide the value heads");
  CHECK(refusal("shape:rope=3") == "rope: must be even and at most head_dim=4, is 3");
  CHECK(refusal("shape:rope=6").rfind("rope: ", 0) == 0);
  CHECK(refusal("shape:experts=2/3/4") == "experts: 2/3: more experts per token than there are");
  CHECK(refusal("shape:experts=2") == "experts: needs 3 numbers separated by '/', is '2'");
  CHECK(refusal("shape:hidden=0") == "hidden: must be a whole number from 1 to 2147483648, is '0'");
  CHECK(refusal("shape:hidden=-1").rfind("hidden: ", 0) == 0);
  CHECK(refusal("shape:hidden=").rfind("hidden: ", 0) == 0);
  CHECK(refusal("shape:hidden=99999999999999999999").rfind("hidden: ", 0) == 0);
  CHECK(refusal("shape:hidden=4:hidden=5") == "hidden: is given twice");
  CHECK(refusal("shape:width=4")
            .rfind("width: unknown field; known are layers, period, tied, mtp, hidden", 0) == 0);
  CHECK(refusal("shape:layers=gxa").rfind("layers: ", 0) == 0);
  CHECK(refusal("shape:layers=").rfind("layers: ", 0) == 0);
  CHECK(refusal("shape:layers=0").rfind("layers: ", 0) == 0);
  CHECK(refusal("shape:layers=ga:period=2").rfind("period: ", 0) == 0);
  CHECK(refusal("shape:layers=4:period=").rfind("period: ", 0) == 0);
  CHECK(refusal("shape:tied=yes").rfind("tied: ", 0) == 0);
  CHECK(refusal("shape:experts=2/1/4:ffn=8").rfind("ffn: ", 0) == 0);
  CHECK(refusal("shape:shared=4").rfind("shared: ", 0) == 0);
  CHECK(refusal("shape:hidden") == "'hidden' is no field; one looks like vocab=23");
  CHECK(refusal("shape::hidden=4") == "'' is no field; one looks like vocab=23");
}

TEST_CASE("a batch is cut into documents, rows and micro-batches as its text says") {
  const std::string text = "tokens:5+1u+3/2//7:mask=40:seed=9";
  const BatchShape s = BatchShape::parse(text);
  CHECK(s.text() == text);
  CHECK((s.mask == 40 && s.seed == 9 && s.tokens() == 18));
  const Batch b = s.batch(23);
  CHECK(b.document_offsets == std::vector<std::int64_t>{0, 5, 6, 9, 11, 18});
  CHECK(b.row_offsets == std::vector<std::int64_t>{0, 3, 4, 5});
  CHECK(b.micro_batch_offsets == std::vector<std::int64_t>{0, 2, 3});
  CHECK(b.name == text);
}

TEST_CASE("labels are left out by percentage and by document") {
  const auto labels = [](const std::string& text) {
    std::int64_t count = 0;
    for (const auto label : BatchShape::parse(text).batch(23).labels) count += label != kIgnoreLabel;
    return count;
  };
  CHECK(labels("tokens:201") == 200);
  CHECK(labels("tokens:201u") == 0);
  CHECK(labels("tokens:201:mask=100") == 0);
  CHECK(labels("tokens:5u+4") == 3);
  const auto half = labels("tokens:201:mask=50");
  CHECK((half > 70 && half < 130));
  CHECK(BatchShape::parse("tokens:9:seed=1").batch(23).token_ids !=
        BatchShape::parse("tokens:9:seed=2").batch(23).token_ids);
}

TEST_CASE("images stand where the text says and take the tokens that it counts") {
  const std::string text = "tokens:9i2x4+3/14v2x2x2i4x4u:seed=2";
  const BatchShape s = BatchShape::parse(text);
  CHECK(s.text() == text);
  REQUIRE(s.micro_batches[0][0][0].images.size() == 1);
  CHECK(s.micro_batches[0][0][0].images[0] == ImageShape{{1, 2, 4}, false});
  CHECK(s.micro_batches[0][1][0].images[0] == ImageShape{{2, 2, 2}, true});
  CHECK(s.micro_batches[0][1][0].unlabelled);
  // 2 merged patches between start and end; two frames of 3 tokens with a token between them, and an image
  // of 6.
  CHECK(s.micro_batches[0][0][0].image_tokens() == 4);
  CHECK(s.micro_batches[0][1][0].image_tokens() == 7 + 6);

  ModelConfig c;
  c.vocab_size = 23, c.hidden_size = 8;
  c.vision.depth = 1, c.vision.hidden_size = 4, c.vision.num_heads = 1;
  c.vision_start_token_id = 19, c.vision_end_token_id = 20, c.image_token_id = 21, c.video_token_id = 22;
  c.vision.in_channels = 1, c.vision.patch_size = 2, c.vision.temporal_patch_size = 2;
  c.vision.spatial_merge_size = 2, c.vision.out_hidden_size = 8, c.vision.num_position_embeddings = 4;
  const Batch b = s.batch(c);
  const auto id = [&](std::int64_t t) { return b.token_ids[static_cast<std::size_t>(t)]; };
  // Five tokens of text: two before the image, three behind.
  CHECK((id(2) == 19 && id(3) == 21 && id(4) == 21 && id(5) == 20));
  for (const std::int64_t t : {0, 1, 6, 7, 8}) CHECK(id(t) < 19);
  CHECK(
      (b.labels[1] == 19 && b.labels[2] == kIgnoreLabel && b.labels[4] == 20 && b.labels[8] == kIgnoreLabel));
  // One token of text: behind everything.
  CHECK((id(12) == 19 && id(13) == 22 && id(14) == 20 && id(15) < 19 && id(16) == 19 && id(18) == 20));
  CHECK((id(19) == 19 && id(20) == 21 && id(23) == 21 && id(24) == 20 && id(25) < 19));
  CHECK(b.images.grids == std::vector<Grid>{{1, 2, 4}, {1, 4, 4}});
  CHECK(b.videos.grids == std::vector<Grid>{{2, 2, 2}});
  CHECK(b.images.pixels.size() == (8 + 16) * 8);
  // A text model reads text there.
  const Batch plain = s.batch(19);
  CHECK((plain.tokens() == 26 && plain.images.empty() && plain.videos.empty()));
  c.vision.spatial_merge_size = 1;
  CHECK_THROWS_AS(s.batch(c), InputError);
}

TEST_CASE("what is wrong with an image's text is named by its document") {
  const auto refusal = refusal_of<BatchShape>;
  CHECK(refusal("tokens:4+3i2x2i2x2") == "row 0, document 1: its images take 6 tokens of 3");
  CHECK(refusal("tokens:9i3x2") == "row 0, document 0: 'i3x2': rows and columns must be multiples of 2");
  CHECK(refusal("tokens:9i2x2x2") ==
        "row 0, document 0: 'i2x2x2' is no image; one looks like i4x2 or v2x4x2");
  CHECK(refusal("tokens:9v2x2") == "row 0, document 0: 'v2x2' is no image; one looks like i4x2 or v2x4x2");
  CHECK(refusal("tokens:9i2x").find("row 0, document 0: must be a whole number from 1") == 0);
  CHECK(refusal("tokens:i2x2").find("row 0, document 0: must be a whole number from 1") == 0);
}

TEST_CASE("what is wrong with a batch text is named by its place or field") {
  const auto refusal = refusal_of<BatchShape>;
  CHECK(refusal("tokens:") == "row 0, document 0: must be a whole number from 1 to 268435456, is ''");
  CHECK(refusal("tokens:5+/3").rfind("row 0, document 1: ", 0) == 0);
  CHECK(refusal("tokens:5//").rfind("row 1, document 0: ", 0) == 0);
  CHECK(refusal("tokens:5/0").rfind("row 1, document 0: ", 0) == 0);
  CHECK(refusal("tokens:5x").rfind("row 0, document 0: ", 0) == 0);
  CHECK(refusal("tokens:268435456+1") == "row 0, document 1: the batch passes 268435456 tokens");
  CHECK(refusal("tokens:5:mask=101") == "mask: must be a whole number from 0 to 100, is '101'");
  CHECK(refusal("tokens:5:rows=2") == "rows: unknown field; known are mask, seed");
  CHECK(refusal("tokens:5:mask=1:mask=2") == "mask: is given twice");
  CHECK(refusal("tokens:5:mask") == "'mask' is no field; one looks like vocab=23");
}

}  // namespace meshparity::model_shape_test

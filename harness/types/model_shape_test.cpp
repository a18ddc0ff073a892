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
  CHECK(refusal("shape:width=4").rfind("width: unknown field; known are layers, period, tied, hidden", 0) ==
        0);
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

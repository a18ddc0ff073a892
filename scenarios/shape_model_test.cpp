// A model described by one word becomes the config that a file would give, and needs no file.
#include "scenarios/shape_model.h"

#include <catch2/catch.hpp>

#include "harness/types/error.h"
#include "harness/types/model_shape.h"
#include "scenarios/load.h"

namespace meshparity::scenarios::shape_model_test {

TEST_CASE("a shape's sizes arrive in the model, dense and with experts") {
  const ModelConfig c = load_model(
      "shape:layers=gag:hidden=9:heads=6/3:head_dim=8:rope=4:gdn=2/"
      "6:key=3:value=5:conv=2:ffn=7:vocab=23:tied=1");
  CHECK(c.num_hidden_layers == 3);
  CHECK(c.full_attention == std::vector<bool>{false, true, false});
  CHECK((c.hidden_size == 9 && c.intermediate_size == 7 && c.vocab_size == 23 && c.tie_word_embeddings));
  CHECK((c.num_attention_heads == 6 && c.num_key_value_heads == 3 && c.head_dim == 8 && c.rotary_dim == 4));
  CHECK((c.linear_num_key_heads == 2 && c.linear_num_value_heads == 6 && c.linear_conv_kernel_dim == 2));
  CHECK((c.linear_key_head_dim == 3 && c.linear_value_head_dim == 5 && !c.is_moe()));
  const ModelConfig moe = load_model("shape:experts=6/2/7:shared=3");
  CHECK((moe.num_experts == 6 && moe.num_experts_per_tok == 2 && moe.moe_intermediate_size == 7));
  CHECK((moe.shared_expert_intermediate_size == 3 && moe.intermediate_size == 0));
}

TEST_CASE("a shape may have a tower and multi-token prediction") {
  const ModelConfig c = load_model("shape:hidden=6:vocab=11:mtp=1:vision=2/3/8/5:grid=3:tied=1");
  CHECK((c.has_vision() && c.mtp_num_hidden_layers == 1 && c.tie_word_embeddings));
  CHECK((c.vision.depth == 2 && c.vision.num_heads == 3 && c.vision.head_dim() == 8));
  CHECK((c.vision.intermediate_size == 5 && c.vision.num_position_embeddings == 9));
  CHECK((c.vision.out_hidden_size == 6 && c.text_vocabulary() == 7 && c.vocab_size == 11));
  CHECK(load_model("shape:experts=2/1/2:vision=1/1/4/1").is_moe());
  CHECK(!load_model("shape:mtp=1").has_vision());
  const Batch b = load_batch("tokens:8i2x2+2", c);
  CHECK((b.images.grids.size() == 1 && b.videos.empty()));
  CHECK_THROWS_WITH(load_model("shape:vision=1/1/6/1"),
                    Catch::Contains("vision: the width of a head must be a multiple of 4"));
  CHECK_THROWS_WITH(load_model("shape:vocab=4:vision=1/1/4/1"), Catch::Contains("vocab: must be at least 5"));
  CHECK_THROWS_WITH(load_model("shape:grid=3"), Catch::Contains("grid: goes with vision"));
}

TEST_CASE("every rotary width survives the library's truncation") {
  for (std::int64_t head_dim = 2; head_dim <= 64; ++head_dim)
    for (std::int64_t rope = 2; rope <= head_dim; rope += 2) {
      ModelShape shape;
      shape.head_dim = head_dim, shape.rope = rope;
      INFO(shape.text());
      REQUIRE(parse_model_shape(shape.text()).rotary_dim == rope);
    }
}

TEST_CASE("a batch text is a batch with the default training options") {
  const ModelConfig c = load_model("shape:vocab=5");
  const Batch b = load_batch("tokens:3+1/2", c);
  CHECK((b.rows() == 2 && b.documents() == 3 && b.tokens() == 6));
  CHECK(load_train("tokens:3+1/2").steps == 0);
  CHECK_THROWS_AS(load_batch("tokens:3+", c), InputError);
  CHECK_THROWS_AS(load_model("shape:heads=3/2"), InputError);
}

}  // namespace meshparity::scenarios::shape_model_test

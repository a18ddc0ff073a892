// The text of a rollout, its refusals, and the batch as rollout sees it.
#include "harness/types/rollout.h"

#include <catch2/catch.hpp>

#include "harness/types/error.h"

namespace meshparity::rollout_test {

TEST_CASE("a rollout's text reads back as the same rollout", "[types][rollout]") {
  for (const char* text : {"plain", "prompt=3", "prompt=3:chunk=2:batch=4:pad=left:prefix=2:replay=on",
                           "temperature=0.7:top_p=0.9", "top_p=0.123456789"}) {
    CAPTURE(text);
    CHECK(RolloutSpec::parse(text).text() == text);
  }
  CHECK(RolloutSpec::parse("top_p=0.5:prompt=2").text() == "prompt=2:top_p=0.5");
  CHECK(RolloutSpec::parse("pad=none:replay=off:temperature=1") == RolloutSpec{});
}

TEST_CASE("a wrong part of a rollout is named", "[types][rollout]") {
  for (const auto& [text, named] :
       std::vector<std::pair<std::string, std::string>>{{"", "'' is not NAME=VALUE"},
                                                        {"prompt", "'prompt' is not NAME=VALUE"},
                                                        {"prompt=0", "prompt=0"},
                                                        {"prompt=3x", "prompt=3x"},
                                                        {"chunk=-1", "chunk=-1"},
                                                        {"pad=right", "none or left is needed"},
                                                        {"temperature=0", "temperature=0"},
                                                        {"temperature=nan", "temperature=nan"},
                                                        {"top_p=1.5", "top_p=1.5"},
                                                        {"prompt=2:prompt=3", "'prompt' stands twice"},
                                                        {"speed=9", "'speed': unknown"}}) {
    CAPTURE(text);
    CHECK_THROWS_WITH(RolloutSpec::parse(text), Catch::Contains(named));
  }
}

TEST_CASE("a prompt is half of a sequence, what is asked for, or all that there is", "[types][rollout]") {
  CHECK(RolloutSpec{}.prompt_of(1) == 1);
  CHECK(RolloutSpec{}.prompt_of(5) == 3);
  CHECK(RolloutSpec::parse("prompt=4").prompt_of(9) == 4);
  CHECK(RolloutSpec::parse("prompt=4").prompt_of(2) == 2);
}

TEST_CASE("rollout has a row for every document", "[types][rollout]") {
  Batch batch;
  batch.token_ids = {1, 2, 3, 4, 5, 6}, batch.document_offsets = {0, 1, 4, 6};
  batch.row_offsets = {0, 2, 3}, batch.micro_batch_offsets = {0, 1, 2};
  const Batch sequences = rollout_batch(batch);
  CHECK(sequences.row_offsets == std::vector<std::int64_t>{0, 1, 2, 3});
  CHECK(sequences.micro_batch_offsets == std::vector<std::int64_t>{0, 3});
  CHECK(sequences.token_ids == batch.token_ids);
}

TEST_CASE("a rollout mesh has no context parallelism and no sharded parameters", "[types][rollout]") {
  ModelConfig config;
  for (const char* mesh : {"ring2", "uly2", "fsdp2"}) {
    CAPTURE(mesh);
    CHECK_THAT(rollout_refusal(Mesh::parse(mesh), {}, config), Catch::Contains("rollout has the axes"));
  }
  CHECK_THAT(rollout_refusal(Mesh::parse("dp2"), RolloutSpec::parse("replay=on"), config),
             Catch::Contains("no experts"));
}

}  // namespace meshparity::rollout_test

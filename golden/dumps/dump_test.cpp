// Every format gives the values that its writer wrote: files of torch and numpy themselves (fixtures, written
// by golden/upstream/dump_fixtures.py), and files of our own writers.
#include <cmath>

#include "golden/dumps/dump_fixture.h"
#include "golden/safetensors.h"
#include "golden/store.h"

namespace meshparity::dumps::dump_test {

using golden::spill;
using golden::TemporaryFolder;

// The formula of the fixtures.
double train(std::size_t sample, std::size_t slot) {
  return -(1 + static_cast<double>(sample) + static_cast<double>(slot) / 8);
}

void check_values(const LogprobSample& sample, std::size_t number, std::size_t slots) {
  INFO(sample.name);
  CHECK(sample.wrong.empty());
  REQUIRE(sample.train.logprobs.size() == slots);
  REQUIRE(sample.rollout.logprobs.size() == slots);
  for (std::size_t i = 0; i < slots; ++i) {
    CHECK(sample.train.logprobs[i] == train(number, i));
    CHECK(sample.rollout.logprobs[i] == train(number, i) - 1.0 / 64);
  }
}

TEST_CASE("a train dump of slime gives response logprobs, their tokens, masks and the prompt's length") {
  const auto samples = samples_of(fixture("slime.pt"));
  REQUIRE(samples.size() == 2);
  check_values(samples[0], 0, 7);
  check_values(samples[1], 1, 5);
  CHECK(samples[0].train.ids == std::vector<std::int64_t>{4, 5, 6, 7, 8, 9, 10});
  CHECK(samples[0].train.first == 4);
  CHECK(samples[0].train.document_tokens == 11);
  CHECK(samples[1].rollout.mask == std::vector<std::uint8_t>{0, 1, 1, 1, 1});
}

TEST_CASE("rank files of slime with context and tensor parallelism are joined, replicas dropped") {
  const auto dump = open_dump(fixture("slime_cp2_rank*.pt"));
  REQUIRE(dump->units() == 1);
  CHECK_THAT(dump->format(), Catch::Contains("slime/miles train dump, torch .pt, 4 files"));
  REQUIRE(dump->notes().size() == 1);
  CHECK_THAT(dump->notes()[0], Catch::Contains("up to 4 rank files"));
  const auto samples = samples_of(fixture("slime_cp2_rank*.pt"));
  REQUIRE(samples.size() == 2);
  check_values(samples[0], 0, 7);
  check_values(samples[1], 1, 5);
}

TEST_CASE("one rank file of several is told from a whole dump") {
  const auto samples = samples_of(fixture("slime_cp2_rank1.pt"));
  REQUIRE(samples.size() == 2);
  REQUIRE(!samples[0].wrong.empty());
  CHECK_THAT(samples[0].wrong[0], Catch::Contains("give all rank files at once"));
}

TEST_CASE("a batch of verl gives real lengths, masks and prompts without their padding") {
  const auto samples = samples_of(fixture("verl.pt"));
  REQUIRE(samples.size() == 2);
  CHECK(samples[0].rollout.ids == std::vector<std::int64_t>{1, 2, 3, 0});
  CHECK(samples[0].rollout.mask == std::vector<std::uint8_t>{1, 1, 1, 0});
  CHECK(samples[0].rollout.first == 2);
  CHECK(samples[1].train.mask == std::vector<std::uint8_t>{1, 1, 0, 1});
  CHECK(samples[1].train.first == 3);
  check_values(samples[1], 1, 4);  // bfloat16 holds these values exactly
}

TEST_CASE("npz: float16 and float64, flat with lengths, deflated, Fortran order") {
  const auto flat = samples_of(fixture("flat.npz"));
  REQUIRE(flat.size() == 2);
  check_values(flat[0], 0, 7);
  check_values(flat[1], 1, 5);
  CHECK(flat[1].train.ids == std::vector<std::int64_t>{7, 8, 9, 10, 11});
  const auto square = samples_of(fixture("square.npz"));
  REQUIRE(square.size() == 2);
  check_values(square[0], 0, 6);
  check_values(square[1], 1, 6);
}

TEST_CASE("a strided tensor of a .pt file and lists of Python numbers") {
  const auto samples = samples_of(fixture("view.pt"));
  REQUIRE(samples.size() == 1);
  CHECK(samples[0].train.logprobs == std::vector<double>{-1, -1.125, -1.25});
  CHECK(samples[0].rollout.logprobs == std::vector<double>{-1.5, -2.5, -3.5});
  CHECK(samples[0].train.ids == std::vector<std::int64_t>{3, 4, 5});
}

TEST_CASE("safetensors and HDF5 with plain field names") {
  const TemporaryFolder folder;
  std::map<std::string, HostTensor> tensors;
  tensors["token_ids"] = HostTensor::from(DType::int32, {2, 3}, std::vector<std::int32_t>{1, 2, 3, 4, 5, 6});
  tensors["train_logprobs"] =
      HostTensor::from(DType::float32, {2, 3}, std::vector<float>{-1, -1.125, -1.25, -2, -2.125, -2.25});
  std::vector<double> lower = {-1, -1.125, -1.25, -2, -2.125, -2.25};
  for (double& value : lower) value -= 1.0 / 64;
  tensors["rollout_logprobs"] = HostTensor::from(DType::float64, {2, 3}, lower);
  golden::write_safetensors(folder.file("d.safetensors"), tensors);
  golden::Store store;
  store.tensors = tensors;
  golden::write(folder.file("d.h5"), store);
  for (const char* name : {"d.safetensors", "d.h5"}) {
    const auto samples = samples_of(folder.file(name));
    REQUIRE(samples.size() == 2);
    check_values(samples[0], 0, 3);
    check_values(samples[1], 1, 3);
    CHECK(samples[1].rollout.ids == std::vector<std::int64_t>{4, 5, 6});
  }
}

TEST_CASE("a golden of ours: the logprob of a token's label, document by document") {
  const auto samples = samples_of(std::string(MESHPARITY_SOURCE_DIR) + "/golden/data/tiny-dense.rows.h5");
  REQUIRE(samples.size() > 1);
  for (const auto& sample : samples) {
    CHECK(sample.wrong.empty());
    REQUIRE(sample.only.present());
    CHECK(sample.only.ids.size() == sample.only.logprobs.size());
    for (std::size_t i = 0; i < sample.only.ids.size(); ++i)
      CHECK((sample.only.mask[i] != 0) == (sample.only.ids[i] >= 0));
    CHECK(sample.only.first == 1);
    CHECK(sample.document_in_row >= 0);
  }
}

TEST_CASE("NeMo-RL's JSON Lines: padded rows, lengths and masks") {
  const TemporaryFolder folder;
  spill(
      folder.file("train_data_step1.jsonl"),
      R"({"idx": 0, "content": "x", "input_lengths": 4, "token_ids": [9, 8, 7, 6, 0], "generation_logprobs": [0.0, 0.0, -1.5, -2.5, 0.0], "prev_logprobs": [0.0, -3.0, -1.25, -2.25, 0.0], "token_loss_mask": [0, 0, 1, 1, 0], "sample_loss_mask": 1})"
      "\n\n"
      R"({"idx": 1, "input_lengths": 5, "generation_logprobs": [0.0, -1.5, -2.5, -3.5, -4], "prev_logprobs": [0.0, -1, -2, -3, -4]})"
      "\n");
  const auto dump = open_dump(folder.file("train_data_step*.jsonl"));
  CHECK(dump->format() == "NeMo-RL train data, JSON Lines");
  const auto samples = samples_of(folder.file("train_data_step1.jsonl"));
  REQUIRE(samples.size() == 2);
  CHECK(samples[0].rollout.logprobs == std::vector<double>{0, 0, -1.5, -2.5});
  CHECK(samples[0].train.logprobs == std::vector<double>{0, -3, -1.25, -2.25});
  CHECK(samples[0].train.mask == std::vector<std::uint8_t>{0, 0, 1, 1});
  CHECK(samples[0].train.ids == std::vector<std::int64_t>{9, 8, 7, 6});
  CHECK(samples[1].train.logprobs.size() == 5);
}

TEST_CASE("ragged lists in JSON, null for what has no logprob, routes in nested lists") {
  const TemporaryFolder folder;
  spill(folder.file("d.json"), R"({"tokens": [[1, 2, 3], [4, 5]], "logprobs": [[null, -1, -2], [-0.5]],
    "routed_experts": [[[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[0, 1], [2, 3]]], [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]})");
  const auto samples = samples_of(folder.file("d.json"));
  REQUIRE(samples.size() == 2);
  CHECK(samples[0].only.mask == std::vector<std::uint8_t>{0, 1, 1});
  CHECK(std::isnan(samples[0].only.logprobs[0]));
  CHECK(samples[0].only.route_width == 4);
  CHECK(samples[0].only.routes.size() == 12);
  CHECK(samples[1].only.ids == std::vector<std::int64_t>{5});
  CHECK(samples[1].only.first == 1);
  CHECK(samples[1].only.routes == std::vector<std::int64_t>{4, 5, 6, 7});
}

TEST_CASE("responses of vLLM: token_logprobs, chat content and prompt_logprobs") {
  const TemporaryFolder folder;
  spill(folder.file("a.json"),
        R"({"id": "c", "choices": [{"index": 0, "text": " b", "logprobs": {"text_offset": [0, 1],
    "token_logprobs": [-0.25, -0.5], "tokens": ["token_id:11", "token_id:12"], "top_logprobs": null}}]})");
  spill(folder.file("b.json"),
        R"({"choices": [{"index": 0, "message": {"content": "ab"}, "logprobs": {"content": [
    {"token": "a", "logprob": -0.25, "bytes": [97], "top_logprobs": []}, {"token": "b", "logprob": -0.5, "bytes": [98], "top_logprobs": []}]}}]})");
  spill(folder.file("c.json"),
        R"({"choices": [{"index": 0, "logprobs": null, "prompt_token_ids": [5, 6, 7], "prompt_logprobs":
    [null, {"9": {"logprob": -0.125, "rank": 1}, "6": {"logprob": -3.5, "rank": 40, "decoded_token": "x"}}, {"7": {"logprob": -1.5}}]}]})");
  const auto a = samples_of(folder.file("a.json")), b = samples_of(folder.file("b.json")),
             c = samples_of(folder.file("c.json"));
  CHECK(a.at(0).only.ids == std::vector<std::int64_t>{11, 12});
  CHECK(a.at(0).only.logprobs == std::vector<double>{-0.25, -0.5});
  CHECK(b.at(0).only.logprobs == a.at(0).only.logprobs);
  CHECK(b.at(0).only.ids[0] != b.at(0).only.ids[1]);
  CHECK(c.at(0).only.ids == std::vector<std::int64_t>{5, 6, 7});
  CHECK(c.at(0).only.logprobs[1] == -3.5);
  CHECK(c.at(0).only.mask == std::vector<std::uint8_t>{0, 1, 1});
}

TEST_CASE("responses of SGLang: prompt before output, only the output counts") {
  const TemporaryFolder folder;
  spill(
      folder.file("s.jsonl"),
      R"({"text": "ab", "meta_info": {"id": "r", "input_token_logprobs": [[null, 1, null], [-2.5, 2, null]], "output_token_logprobs": [[-0.25, 11, null], [-0.5, 12, "b"]]}})");
  const auto samples = samples_of(folder.file("s.jsonl"));
  REQUIRE(samples.size() == 1);
  CHECK(samples[0].only.ids == std::vector<std::int64_t>{1, 2, 11, 12});
  CHECK(samples[0].only.mask == std::vector<std::uint8_t>{0, 0, 1, 1});
  CHECK(samples[0].only.logprobs[3] == -0.5);
}

TEST_CASE("lists of records: slime's rollout dump and a JSON array") {
  const TemporaryFolder folder;
  const std::string records =
      R"([{"tokens": [1, 2, 3], "response_length": 2, "rollout_log_probs": [-1, -2], "loss_mask": [1, 0]},
          {"tokens": [4, 5], "response_length": 1, "rollout_log_probs": [-0.5], "loss_mask": [1]}])";
  spill(folder.file("a.json"), records);
  spill(folder.file("b.json"), "{\"rollout_id\": 0, \"samples\": " + records + "}");
  CHECK(open_dump(folder.file("b.json"))->format() == "slime/miles rollout dump, JSON");
  for (const char* name : {"a.json", "b.json"}) {
    const auto samples = samples_of(folder.file(name));
    REQUIRE(samples.size() == 2);
    CHECK(samples[0].rollout.ids == std::vector<std::int64_t>{2, 3});
    CHECK(samples[0].rollout.mask == std::vector<std::uint8_t>{1, 0});
    CHECK(samples[1].rollout.logprobs == std::vector<double>{-0.5});
    CHECK_FALSE(samples[1].train.present());
  }
}

TEST_CASE("one stream is cut by document offsets, and a length that fits nothing is said and not judged") {
  const TemporaryFolder folder;
  spill(folder.file("d.json"), R"({"token_ids": [1, 2, 3, 4, 5], "train_logprobs": [-1, -2, -3, -4, -5],
    "rollout_logprobs": [-1, -2, -3, -4, -5], "document_offsets": [0, 2, 5], "row_offsets": [0, 1, 2]})");
  const auto samples = samples_of(folder.file("d.json"));
  REQUIRE(samples.size() == 2);
  CHECK(samples[1].train.logprobs == std::vector<double>{-3, -4, -5});
  CHECK(samples[1].document_in_row == 0);
  spill(folder.file("e.json"),
        R"({"token_ids": [1, 2], "train_logprobs": [-1, -2, -3], "rollout_logprobs": [-1, -2]})");
  const auto wrong = samples_of(folder.file("e.json"));
  REQUIRE(wrong.at(0).wrong.size() == 1);
  CHECK_THAT(wrong[0].wrong[0], Catch::Contains("train has 3 logprobs, and there are 2 token ids"));
}

}  // namespace meshparity::dumps::dump_test

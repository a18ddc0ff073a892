// Drift between dtype policies of our own engines: none where both are exact, and of one choice the choice.
#include "harness/cli/model_drift.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "harness/cli/case_arguments.h"
#include "harness/cli/command_fixture.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

namespace meshparity::cli::model_drift_test {

TEST_CASE("exact policies leave no drift between training and rollout, whatever their meshes") {
  for (const char* line : {"--model tiny-dense --batch rows --mesh tp2 --rollout-mesh dp2",
                           "--model tiny-moe --batch packed-odd --mesh fsdp2.ep2 --rollout-mesh tp3",
                           "--model tiny-moe --batch rows --mesh ring2 --rollout-mesh pp2 --rollout "
                           "chunk=2:temperature=0.7"}) {
    CAPTURE(line);
    const Attribution found = model_drift(single_case(line), {}, {}, true);
    CHECK(found.drift < 1e-12);
    CHECK(found.costs.empty());
    CHECK(!found.by_position.empty());
    for (const auto& [block, relative] : found.by_depth) CHECK(relative == 0);
  }
}

TEST_CASE("where one choice differs the drift is that choice's, and it grows in depth from there") {
  const PrecisionPolicy rollout = scenarios::load_policy("float32");
  PrecisionPolicy train = rollout;
  train.name = "with a bfloat16 decay rate", train.set(Place::decay_rate, DType::bfloat16);
  const Attribution found = model_drift(
      single_case("--model tiny-dense --batch rows --mesh dp1 --rollout-mesh dp1"), train, rollout, true);
  REQUIRE(found.costs.size() == 1);
  CHECK(found.costs[0].place == Place::decay_rate);
  CHECK(found.drift > 100 * found.same_policy);
  CHECK(found.costs[0].removed == Approx(found.drift - found.same_policy));
  CHECK(found.costs[0].added == Approx(found.drift - found.same_policy));
  REQUIRE(found.by_depth.size() == 2 * 5 + 2);
  CHECK(found.by_depth[0].first == "embed");
  CHECK(found.by_depth[0].second == 0);
  CHECK(found.by_depth[1].first == "layers.0.mixer");
  CHECK(found.by_depth[1].second > 0);
}

TEST_CASE("drift --model prints the table, writes it, and refuses what it cannot do") {
  const ScratchFolder folder;
  const std::string json = folder.file("a.json");
  const Finished done = execute({MESHPARITY_EXECUTABLE, "drift", "--model", "tiny-moe", "--train-policy",
                                 "megatron", "--rollout-policy", "vllm", "--attribute", "--json", json});
  CHECK(done.code == 0);
  CHECK(done.err.empty());
  CHECK_THAT(done.out, Catch::StartsWith("megatron against vllm: mean difference "));
  const auto found = nlohmann::json::parse(slurp(json)).at("attribution");
  const PrecisionPolicy train = scenarios::load_policy("megatron"), rollout = scenarios::load_policy("vllm");
  std::size_t differ = 0;
  for (const PlaceInfo& place : kPlaces) differ += train.at(place.place) != rollout.at(place.place);
  CHECK(found.at("places").size() == differ);
  const auto refused = [](std::vector<std::string> words, const std::string& said) {
    words.insert(words.begin(), {MESHPARITY_EXECUTABLE, "drift", "--model", "tiny-dense"});
    const Finished result = execute(words);
    CAPTURE(said, result.err);
    CHECK(result.code == 2);
    CHECK_THAT(result.err, Catch::Contains(said));
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  };
  refused({"--train-policy", "nobody"}, "dtype policy 'nobody'");
  refused({"--mesh", "tp2,dp2"}, "2 cases");
  refused({"--rollout-mesh", "ring2"}, "rollout has the axes");
  refused({"--dtype", "float32"}, "--dtype");
  refused({"--json", "/nowhere/a.json"}, "/nowhere/a.json");
}

}  // namespace meshparity::cli::model_drift_test

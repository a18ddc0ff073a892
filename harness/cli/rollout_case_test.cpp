// Rollout cases as a user runs them: green on both engines and in float32, both sides as files that drift
// reads, wrong usage refused.
#include <algorithm>
#include <catch2/catch.hpp>

#include "harness/cli/command_fixture.h"
#include "reports/report.h"

namespace meshparity::cli::rollout_case_test {
namespace {

Finished meshparity(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), MESHPARITY_EXECUTABLE);
  return execute(std::move(arguments));
}

std::vector<std::string> run_of(const std::string& model, const std::string& batch, const std::string& mesh,
                                const std::string& rollout_mesh, std::vector<std::string> more = {}) {
  std::vector<std::string> words = {"run", "--model",        model,       "--batch", batch, "--mesh",
                                    mesh,  "--rollout-mesh", rollout_mesh};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

}  // namespace

TEST_CASE(
    "a rollout case judges weights, routes, logits, logprobs, the difference to training and the repeat") {
  const ScratchFolder folder;
  const std::string json = folder.file("run.json");
  const Finished run =
      meshparity({"gate", "--model", "tiny-moe", "--batch", "prompts", "--mesh", "fsdp2,ring2",
                  "--rollout-mesh", "pp2.tp2", "--rollout",
                  "prompt=9:chunk=2:batch=3:pad=left:prefix=5,replay=on:temperature=0.7:top_p=0.9", "--json",
                  json, "--json-detail"});
  INFO(run.out << run.err);
  REQUIRE(run.code == 0);
  const auto result = reports::from_json(slurp(json), json);
  REQUIRE(result.cases.size() == 4);
  for (const auto& c : result.cases) {
    const auto judged = [&](const std::string& tensor) {
      return std::any_of(c.checks.begin(), c.checks.end(), [&](const auto& check) {
        return check.check == "rollout" && check.tensor == tensor && check.elements > 0;
      });
    };
    for (const char* tensor : {"rollout/weights/lm_head.weight", "rollout/routes/layers.4", "rollout/logits",
                               "rollout/logprobs", "rollout/sampling_logprobs", "rollout/in_support",
                               "rollout/train_difference", "rollout/replicas", "rollout/repeat"})
      CHECK(judged(tensor));
  }
}

TEST_CASE("processes over Gloo roll out as threads do") {
  const Finished run = meshparity(run_of("tiny-moe", "boundaries", "fsdp2", "tp2.ep2",
                                         {"--engine", "gloo", "--spawn", "2", "--rollout", "replay=on"}));
  INFO(run.out << run.err);
  CHECK(run.code == 0);
}

TEST_CASE("a float32 rollout is judged by the bounds of float32") {
  const Finished run = meshparity(run_of("tiny-dense", "packed-odd", "fsdp2", "pp2", {"--dtype", "float32"}));
  INFO(run.out << run.err);
  CHECK(run.code == 0);
}

TEST_CASE("a batch without golden is judged against the reference's rollout") {
  const Finished run = meshparity(run_of("tiny-moe", "tokens:5+1+7/3", "tp2", "dp3"));
  INFO(run.out << run.err);
  CHECK(run.code == 0);
  CHECK(run.out.find("against reference") != std::string::npos);
  CHECK(run.out.find("against golden") == std::string::npos);
}

TEST_CASE("drift reads both sides of a rollout case and finds rounding") {
  const ScratchFolder folder;
  const std::string train = folder.file("train.h5"), rollout = folder.file("rollout.h5");
  const Finished run =
      meshparity(run_of("tiny-dense", "rows", "ring2", "tp2", {"--dump", train, "--dump-rollout", rollout}));
  INFO(run.out << run.err);
  REQUIRE(run.code == 0);
  const Finished drift = meshparity({"drift", "--train", train, "--rollout", rollout});
  INFO(drift.out << drift.err);
  CHECK(drift.code == 0);
  CHECK(drift.out.rfind("Rounding: ", 0) == 0);
  const Finished refused = meshparity({"run", "--mesh", "tp2", "--dump-rollout", folder.file("other.h5")});
  CHECK(refused.code == 2);
  CHECK(refused.err.find("--dump-rollout: needs --rollout-mesh") != std::string::npos);
}

TEST_CASE("a rollout case refuses what it cannot do in one line") {
  const auto refused = [](const std::vector<std::string>& more, const std::string& why) {
    const Finished run = meshparity(run_of("tiny-dense", "rows", "tp2", "dp2", more));
    INFO(run.out << run.err);
    CHECK(run.code == 2);
    CHECK(run.out.empty());
    CHECK(std::count(run.err.begin(), run.err.end(), '\n') == 1);
    CHECK(run.err.find(why) != std::string::npos);
  };
  refused({"--fault", "conv1d-weight-not-block-sharded"},
          "--fault conv1d-weight-not-block-sharded with --rollout-mesh: it is a fault of training");
  refused({"--communication"}, "--rollout-mesh: no --save-weights or --communication with it");
  refused({"--steps", "2"}, "--steps with --rollout-mesh");
  refused({"--rollout", "replay=on"}, "replay=on: the model has no experts to replay");
  refused({"--rollout", "chunk=two"}, "--rollout chunk=two: a number from");
}

}  // namespace meshparity::cli::rollout_case_test

// meshparity-judge drift --series, as a user types it.
#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "harness/cli/command_fixture.h"
#include "harness/drift/synthetic_series.h"

namespace meshparity::cli::drift_series_test {

using Json = nlohmann::json;

Finished run_series(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {MESHPARITY_JUDGE, "drift", "--series"});
  return execute(std::move(arguments));
}

// A step as NeMo-RL writes it; `side` 1 or 2 writes one of its sides alone.
std::string step_lines(const drift::MemorySource& step, int side = 0) {
  std::string text;
  const auto batch = step.load(0);
  for (std::size_t i = 0; i < batch->size(); ++i) {
    const LogprobSample sample = batch->sample(i);
    Json line = {{"token_ids", sample.train.ids}};
    if (side != 2) line[side == 1 ? "logprobs" : "prev_logprobs"] = sample.train.logprobs;
    if (side != 1) line[side == 2 ? "logprobs" : "generation_logprobs"] = sample.rollout.logprobs;
    text += line.dump() + "\n";
  }
  return text;
}

// Twelve steps of a series that jumps; numbers are 10 apart.
drift::SyntheticSeries jumping(const ScratchFolder& folder) {
  for (std::uint64_t seed = 5000;; ++seed) {
    auto series = drift::make_series("jump", seed);
    if (series.steps.size() > 16) continue;
    for (std::size_t t = 0; t < series.steps.size(); ++t)
      folder.write("step_" + std::to_string(10 * t) + ".jsonl", step_lines(*series.steps[t]));
    return series;
  }
}

TEST_CASE("drift --series: a jump is named by its step, on the console, in JSON and in Markdown") {
  const ScratchFolder folder;
  const auto series = jumping(folder);
  const std::int64_t bad = 10 * (series.bad - 1);
  const Finished done = run_series({folder.file("step_*.jsonl"), "--json", folder.file("s.json"),
                                    "--markdown", folder.file("s.md"), "--html", folder.file("s.html")});
  INFO(done.out << done.err);
  CHECK(done.code == 1);
  CHECK(done.out.rfind("Jump at step " + std::to_string(bad) + ": ", 0) == 0);
  CHECK(done.out.find("first bad step: " + std::to_string(bad)) != std::string::npos);
  CHECK(done.out.find("step " + std::to_string(bad) + " by itself: ") != std::string::npos);
  const Json json = Json::parse(slurp(folder.file("s.json")))["series"];
  CHECK(json["verdict"]["cause"] == "jump");
  CHECK(json["first_bad"] == bad);
  CHECK(json["steps"].size() == series.steps.size());
  CHECK(slurp(folder.file("s.md")).find("### Train against rollout over steps: jump") == 0);
  CHECK(slurp(folder.file("s.html")).find("first bad step: " + std::to_string(bad) + "</text>") !=
        std::string::npos);
  const Finished quiet = run_series({folder.file("step_{step}.jsonl"), "--quiet"});
  CHECK(quiet.out == done.out.substr(0, done.out.find('\n') + 1));
}

TEST_CASE("drift --series: gaps in the numbers and a damaged file are said, and the rest is judged") {
  const ScratchFolder folder;
  jumping(folder);
  std::filesystem::remove(folder.file("step_20.jsonl"));
  folder.write("step_0.jsonl", "{\"token_ids\": [1, 2");
  const Finished done = run_series({folder.file("step_*.jsonl")});
  INFO(done.out << done.err);
  CHECK(done.code == 1);
  CHECK(done.out.find("noticed   1 step is missing from the numbers: 20\n") != std::string::npos);
  CHECK(done.out.find("noticed   step 0 left out: " + folder.file("step_0.jsonl") +
                      ": line 1: is not JSON") != std::string::npos);
}

TEST_CASE("drift --series: a file a side, by two patterns, and a step that lacks one") {
  const ScratchFolder folder;
  const auto series = drift::make_series("flat-gaussian", 5001);
  for (std::size_t t = 0; t < series.steps.size(); ++t) {
    folder.write("train_" + std::to_string(t) + ".jsonl", step_lines(*series.steps[t], 1));
    if (t != 3) folder.write("sampler_" + std::to_string(t) + ".jsonl", step_lines(*series.steps[t], 2));
  }
  const Finished done =
      run_series({"--train", folder.file("train_*.jsonl"), "--rollout", folder.file("sampler_{step}.jsonl")});
  INFO(done.out << done.err);
  CHECK(done.code == 0);
  CHECK(done.out.rfind("Flat: |d| does not change over ", 0) == 0);
  CHECK(done.out.find("noticed   step 3: no rollout file, left out\n") != std::string::npos);
  CHECK(done.out.find("by itself: Rounding: ") != std::string::npos);
}

TEST_CASE("drift --series: a fault that stands in every step alike is flat and still exit 1") {
  const ScratchFolder folder;
  const auto pair = drift::make_synthetic("temperature", 5002);
  for (int t = 0; t < 4; ++t) folder.write("t" + std::to_string(t) + ".jsonl", step_lines(*pair.source));
  const Finished done = run_series({folder.file("t*.jsonl")});
  INFO(done.out << done.err);
  CHECK(done.code == 1);
  CHECK(done.out.rfind("Flat: ", 0) == 0);
  CHECK(done.out.find("by itself: Temperature: ") != std::string::npos);
}

TEST_CASE("drift --series: one clear line and exit 2 for what is no series") {
  const ScratchFolder folder;
  const auto refused = [&](std::vector<std::string> arguments, const std::string& what) {
    const Finished done = run_series(std::move(arguments));
    INFO(what << "\n" << done.out << done.err);
    CHECK(done.code == 2);
    CHECK(done.out.empty());
    CHECK(done.err.find(what) != std::string::npos);
    CHECK(std::count(done.err.begin(), done.err.end(), '\n') == 1);
  };
  refused({folder.file("step_*")}, "step_*: no such file");
  const auto series = drift::make_series("flat-gaussian", 5003);
  for (int t = 0; t < 2; ++t)
    folder.write("step_" + std::to_string(t) + ".jsonl", step_lines(*series.steps[0]));
  refused({folder.file("step_*")}, "2 of 2 steps can be read, a series needs 3");
  for (int t = 2; t < 8; ++t)
    folder.write("step_" + std::to_string(t) + ".jsonl", t == 2 ? step_lines(*series.steps[0]) : "{");
  refused({folder.file("step_*")}, "3 of 8 steps can be read, fewer than half; step 3 left out: ");
  refused({folder.file("step_*"), "--noise", "x.pt"}, "--noise and --series do not go together");
  refused({}, "give one dump that holds both sides");
}

}  // namespace meshparity::cli::drift_series_test

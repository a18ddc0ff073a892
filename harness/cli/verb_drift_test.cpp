// meshparity-judge drift, as a user types it: dumps of every kind, exit codes, reports, one line for bad
// input.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <nlohmann/json.hpp>

#include "golden/safetensors.h"
#include "harness/cli/command_fixture.h"
#include "harness/drift/synthetic.h"

namespace meshparity::cli::drift_test {

using Json = nlohmann::json;

std::string fixture(const std::string& name) {
  return std::string(MESHPARITY_SOURCE_DIR) + "/golden/dumps/fixtures/" + name;
}

Finished run_drift(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {MESHPARITY_JUDGE, "drift"});
  return execute(std::move(arguments));
}

// A pair as NeMo-RL writes it, one line per sample; `side` 1 or 2 writes one of its sides alone.
std::string json_lines(const drift::SyntheticPair& pair, int side = 0) {
  std::string text;
  for (const LogprobSample& sample : pair.source->samples()) {
    Json line = {{"token_ids", sample.train.ids},
                 {"prompt_length", sample.train.first},
                 {"loss_mask", sample.train.mask}};
    if (side != 2) line[side == 1 ? "logprobs" : "prev_logprobs"] = sample.train.logprobs;
    if (side != 1) line[side == 2 ? "logprobs" : "generation_logprobs"] = sample.rollout.logprobs;
    text += line.dump() + "\n";
  }
  return text;
}

TEST_CASE("drift: a fault from one file, and the same from two, with JSON and Markdown") {
  const ScratchFolder folder;
  const auto pair = drift::make_synthetic("layout-zigzag", 31'001);
  const std::string both = folder.write("train_data_step1.jsonl", json_lines(pair));
  const Finished one = run_drift({both, "--json", folder.file("d.json"), "--markdown", folder.file("d.md"),
                                  "--html", folder.file("d.html")});
  INFO(one.out << one.err);
  CHECK(one.code == 1);
  CHECK(one.out.rfind("Layout mismatch: |d| jumps where " + pair.detail, 0) == 0);
  CHECK(one.out.find("NeMo-RL train data, JSON Lines") != std::string::npos);
  const Json json = Json::parse(slurp(folder.file("d.json")));
  CHECK(json["schema"] == 1);
  CHECK(json["drift"]["verdict"]["cause"] == "layout");
  CHECK(json["drift"]["verdict"]["fault"] == true);
  CHECK(json["drift"]["metrics"]["tokens"].get<std::size_t>() > 1000);
  CHECK(json["drift"]["tests"].size() > 15);
  CHECK(json["drift"]["worst"].size() == 10);
  CHECK(slurp(folder.file("d.md")).find("### Train against rollout: layout") == 0);
  const std::string html = slurp(folder.file("d.html"));
  CHECK(html.find("<b>FAULT</b> Layout mismatch: |d| jumps where") != std::string::npos);
  CHECK(html.find("<desc>By the token&#39;s index") < html.find("The tokens that differ most"));
  CHECK(html.size() > 20'000);
  CHECK(html.size() < 400'000);
  const Finished two = run_drift({"--train", folder.write("a.jsonl", json_lines(pair, 1)), "--rollout",
                                  folder.write("b.jsonl", json_lines(pair, 2)), "--quiet"});
  CHECK(two.code == 1);
  CHECK(two.out == one.out.substr(0, one.out.find('\n') + 1));
}

TEST_CASE("drift: benign noise passes and says what it does not know") {
  const ScratchFolder folder;
  const Finished done =
      run_drift({folder.write("d.jsonl", json_lines(drift::make_synthetic("benign-student-t", 31'002)))});
  INFO(done.out << done.err);
  CHECK(done.code == 0);
  CHECK(done.out.rfind("Rounding: ", 0) == 0);
  CHECK(done.out.find("unknown without a second run") != std::string::npos);
}

TEST_CASE("drift: dumps of torch and numpy, rank files by a pattern, a golden against itself") {
  for (const std::string& name : {fixture("slime.pt"), fixture("slime_cp2_rank*.pt"), fixture("verl.pt"),
                                  fixture("flat.npz"), fixture("square.npz")}) {
    const Finished done = run_drift({name});
    INFO(name << "\n" << done.out << done.err);
    CHECK(done.code <= 1);
    CHECK(done.err.empty());
    CHECK(done.out.find("mean |d|            0.01562 nats") != std::string::npos);
  }
  const std::string golden = std::string(MESHPARITY_SOURCE_DIR) + "/golden/data/tiny-dense.rows.h5";
  const Finished same = run_drift({"--train", golden, "--rollout", golden});
  CHECK(same.code == 0);
  CHECK(same.out.rfind("No drift: all ", 0) == 0);
}

TEST_CASE("drift: one clear line and exit 2 for what cannot be judged") {
  const ScratchFolder folder;
  const auto refused = [&](std::vector<std::string> arguments, const std::string& what) {
    const Finished done = run_drift(std::move(arguments));
    INFO(what << "\n" << done.out << done.err);
    CHECK(done.code == 2);
    CHECK(done.out.empty());
    CHECK(done.err.find(what) != std::string::npos);
    CHECK(std::count(done.err.begin(), done.err.end(), '\n') == 1);
  };
  refused({}, "give one dump that holds both sides, or --train A --rollout B");
  refused({"x.pt", "--train", "y.pt"}, "give one dump");
  refused({"--train", "y.pt"}, "--rollout is missing");
  refused({folder.file("none.pt")}, "none.pt: cannot be read");
  refused({fixture("hostile.pt")}, "hostile.pt: data.pkl: names 'posix.system', which is refused");
  refused({folder.write("t.pt", slurp(fixture("slime.pt")).substr(0, 900))}, "t.pt: damaged");
  refused({folder.write("e.jsonl", "")}, "e.jsonl: is empty");
  refused({folder.write("n.jsonl", "{\"prev_logprobs\": [-1, NaN], \"generation_logprobs\": [-1, -1]}\n")},
          "n.jsonl: line 1: is not JSON");
  refused({folder.write("o.jsonl", "{\"prev_logprobs\": [-1, -2]}\n")}, "holds no rollout logprobs");
  const std::string a = folder.write("a.jsonl", "{\"token_ids\": [1, 2, 3], \"logprobs\": [-1, -2, -3]}\n"),
                    b = folder.write("b.jsonl", "{\"token_ids\": [4, 5, 6], \"logprobs\": [-1, -2, -3]}\n");
  refused({"--train", a, "--rollout", b}, "share no tokens");
  refused({"--train", a, "--rollout", a, "--json", folder.file("no/where.json")}, "cannot be written");
  std::map<std::string, HostTensor> tensors;
  tensors["logprobs"] = HostTensor::from(DType::float32, {3}, std::vector<float>{-1, std::nanf(""), -2});
  golden::write_safetensors(folder.file("nan.safetensors"), tensors);
  refused({"--train", folder.file("nan.safetensors"), "--rollout", folder.file("nan.safetensors")},
          "slot 1 holds NaN");
}

}  // namespace meshparity::cli::drift_test

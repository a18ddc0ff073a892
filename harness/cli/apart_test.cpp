// A case whose reference runs apart: the same verdicts as in one process, what each part took, faults found
// and named, and nothing left on the disk.
#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "harness/cli/command_fixture.h"
#include "reports/report.h"

namespace meshparity::cli {
namespace {

// Five layers, two documents in one micro-batch and one in another.
const std::vector<std::string> kSmall = {
    "--model",
    "shape:layers=ggagg:hidden=24:heads=4/2:head_dim=8:rope=4:gdn=4/8:key=4:value=4:ffn=40:vocab=61:tied=1",
    "--batch", "tokens:19+6//11"};

std::vector<std::string> run_with(std::vector<std::string> more) {
  std::vector<std::string> all = {MESHPARITY_EXECUTABLE, "run"};
  all.insert(all.end(), kSmall.begin(), kSmall.end());
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

CaseResult result_of(const std::vector<std::string>& more, int code) {
  const ScratchFolder folder;
  const std::string json = folder.file("run.json");
  auto arguments = run_with(more);
  arguments.insert(arguments.end(), {"--json", json});
  const Finished run = execute(arguments);
  INFO(run.out << run.err);
  REQUIRE(run.code == code);
  return reports::from_json(slurp(json), json).cases.at(0);
}

}  // namespace

TEST_CASE("a reference in a process of its own gives the verdicts of one in this process, to the bit") {
  for (const char* const mesh : {"tp2", "pp2.tp2"}) {
    const CaseResult apart = result_of({"--mesh", mesh, "--sp", "on", "--apart"}, 0);
    const CaseResult here = result_of({"--mesh", mesh, "--sp", "on"}, 0);
    CHECK(apart.case_line == here.case_line + " --apart");
    REQUIRE(apart.checks.size() == here.checks.size());
    for (std::size_t i = 0; i < here.checks.size(); ++i) {
      CHECK(apart.checks[i].tensor == here.checks[i].tensor);
      CHECK(apart.checks[i].max_abs == here.checks[i].max_abs);
      CHECK(apart.checks[i].against == here.checks[i].against);
    }
    CHECK(here.costs.empty());
  }
}

TEST_CASE("float32 apart is judged by the conditions of its own model, and says what it took") {
  const CaseResult result = result_of({"--mesh", "tp2", "--sp", "on", "--dtype", "float32", "--apart"}, 0);
  std::set<std::string> checks;
  double largest = 0;
  for (const auto& check : result.checks) {
    checks.insert(check.check);
    CHECK(check.bound_used <= 1);
    largest = std::max(largest, check.max_rel);
  }
  CHECK(checks ==
        std::set<std::string>{"logits", "logprobs", "loss", "grads", "grad_norm", "replicas", "placement"});
  CHECK(largest > 1e-9);  // float32 it was
  std::set<std::string> parts;
  for (const auto& cost : result.costs) {
    parts.insert(cost.part);
    CHECK(cost.seconds >= 0);
    CHECK(cost.peak_bytes > (std::int64_t{1} << 20));
  }
  CHECK(parts == std::set<std::string>{"reference: weights drawn", "reference: forward and backward",
                                       "reference: results written", "reference: conditions",
                                       "ranks: forward and backward", "judge"});
}

TEST_CASE("a fault is found and named apart as well, in float32") {
  for (const auto& [fault, cause] : std::vector<std::pair<std::string, std::string>>{
           {"gdn-outnorm-grad-tp-missing", "over tp"}, {"sp-norm-grad-no-allreduce", "over tp"}}) {
    const Finished run =
        execute(run_with({"--mesh", "tp2", "--sp", "on", "--dtype", "float32", "--apart", "--fault", fault}));
    INFO(run.out << run.err);
    CHECK(run.code == 1);
    const auto at = run.out.find("  cause   ");
    REQUIRE(at != std::string::npos);
    CHECK(run.out.substr(at, run.out.find('\n', at) - at).find(cause) != std::string::npos);
    CHECK(run.out.find("--fault " + fault + " --apart --check") != std::string::npos);
  }
}

TEST_CASE("what a reference apart cannot do is refused in one line") {
  const std::string golden = MESHPARITY_SOURCE_DIR "/golden/data/tiny-dense.rows.h5";
  const auto refused = [](const std::vector<std::string>& arguments, const std::string& names) {
    const Finished run = execute(arguments);
    INFO(run.err);
    CHECK(run.code == 2);
    CHECK(run.out.empty());
    CHECK(std::count(run.err.begin(), run.err.end(), '\n') == 1);
    CHECK(run.err.find(names) != std::string::npos);
  };
  refused(run_with({"--mesh", "tp2", "--apart", "--steps", "1"}), "--apart: --steps must be 0");
  refused(run_with({"--mesh", "tp2", "--apart", "--engine", "gloo"}), "--apart: --engine must be inprocess");
  refused({MESHPARITY_EXECUTABLE, "run", "--golden", golden, "--mesh", "tp2", "--steps", "0", "--apart"},
          "--apart: --golden");
}

TEST_CASE("the file of a reference apart does not outlive the case") {
  const ScratchFolder folder;
  auto arguments = run_with({"--mesh", "tp2", "--apart"});
  arguments.insert(arguments.begin(), {"env", "TMPDIR=" + folder.file("")});
  arguments[0] = "/usr/bin/env";
  const Finished run = execute(arguments);
  INFO(run.out << run.err);
  CHECK(run.code == 0);
  CHECK(std::filesystem::is_empty(folder.file("")));
}

}  // namespace meshparity::cli

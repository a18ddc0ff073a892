// Random cases as a user runs them: drawn from a seed, green, re-runnable by their line alone; and with a
// fault planted, red and shrunk to a line that is red with the fault and green without.
#include <algorithm>
#include <catch2/catch.hpp>
#include <set>
#include <sstream>

#include "harness/cli/case_arguments.h"
#include "harness/cli/command_fixture.h"
#include "harness/types/batch_shape.h"
#include "harness/types/command_line.h"
#include "reports/report.h"

namespace meshparity::cli::random_gate_test {

Finished meshparity(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), MESHPARITY_EXECUTABLE);
  return execute(std::move(arguments));
}

std::vector<std::string> listed(const std::string& count, const std::string& seed) {
  const Finished run = meshparity({"gate", "--random", count, "--seed", seed, "--list"});
  INFO(run.err);
  REQUIRE(run.code == 0);
  std::vector<std::string> lines;
  std::istringstream text(run.out);
  for (std::string line; std::getline(text, line);)
    if (line.rfind("--", 0) == 0) lines.push_back(line);
  return lines;
}

TEST_CASE("random cases are listed as lines that read back as themselves") {
  const auto lines = listed("40", "3");
  CHECK(lines.size() == 40);
  for (const auto& line : lines) CHECK(single_case(line).line() == line);
  const auto fewer = listed("7", "3");
  CHECK(std::equal(fewer.begin(), fewer.end(), lines.begin()));
  CHECK(listed("7", "4") != fewer);
}

TEST_CASE("random cases of a fixed seed are green") {
  const ScratchFolder folder;
  const std::string json = folder.file("run.json");
  const Finished run = meshparity({"gate", "--random", "12", "--seed", "11", "--json", json});
  INFO(run.out << run.err);
  REQUIRE(run.code == 0);
  const auto result = reports::from_json(slurp(json), json);
  REQUIRE(result.cases.size() == 12);
  std::set<std::string> checks;
  for (const auto& c : result.cases) {
    CHECK(c.state == State::pass);
    CHECK(c.shrunk.empty());
    for (const auto& check : c.checks) checks.insert(check.check);
  }
  CHECK(checks.count("weights"));
  CHECK(checks.count("grads"));
}

TEST_CASE("a random case that fails is shrunk to a line that fails with the fault and passes without") {
  const ScratchFolder folder;
  const std::string json = folder.file("run.json");
  const std::string fault = "conv1d-weight-not-block-sharded";
  const Finished run = meshparity({"gate", "--random", "2", "--seed", "1", "--mesh", "fsdp2.tp2", "--shrink",
                                   "900", "--fault", fault, "--json", json, "--quiet"});
  INFO(run.out << run.err);
  REQUIRE(run.code == 1);
  CHECK(run.out.find("\n  shrunk  ./meshparity run --model shape:") != std::string::npos);
  const auto result = reports::from_json(slurp(json), json);
  const auto shrunk = std::find_if(result.cases.begin(), result.cases.end(),
                                   [](const CaseResult& c) { return !c.shrunk.empty(); });
  REQUIRE(shrunk != result.cases.end());
  INFO(shrunk->shrunk);
  CaseSpec smallest = single_case(shrunk->shrunk);
  CHECK(smallest.mesh.text() == "tp2");
  CHECK(BatchShape::parse(smallest.batch).tokens() <= 3);
  CHECK(smallest.fault == fault);
  auto words = split_words(shrunk->shrunk);
  words.insert(words.begin(), "run");
  CHECK(meshparity(words).code == 1);
  smallest.fault.clear();
  words = split_words(smallest.line());
  words.insert(words.begin(), "run");
  CHECK(meshparity(words).code == 0);
}

TEST_CASE("what --random cannot do is one clear line") {
  const auto refused = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "gate");
    const Finished run = meshparity(arguments);
    CHECK(run.code == 2);
    CHECK(run.out.empty());
    CHECK(std::count(run.err.begin(), run.err.end(), '\n') == 1);
    return run.err;
  };
  CHECK(refused({"--random", "0"}).find("--random") != std::string::npos);
  CHECK(refused({"--random", "5", "--cases", "basic"}).find("--cases") != std::string::npos);
  CHECK(refused({"--random", "5", "--cover"}).find("--cover") != std::string::npos);
  CHECK(refused({"--random", "5", "--golden", "a.h5"}).find("no golden") != std::string::npos);
  CHECK(refused({"--random", "5", "--seed", "-1"}).find("--seed must not be negative") != std::string::npos);
  CHECK(refused({"--random", "5", "--mesh", "tp2", "--model", "shape:heads=3/3"})
            .find("num_attention_heads=3") != std::string::npos);
  CHECK(refused({"--model", "shape:heads=4/3"}).find("shape:heads=4/3: heads: 4/3") != std::string::npos);
  CHECK(refused({"--batch", "tokens:4+"}).find("tokens:4+: row 0, document 1") != std::string::npos);
}

}  // namespace meshparity::cli::random_gate_test

// The gate as a user runs it: verdicts, exit codes, reports, bad input, a worker that dies.
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "harness/cli/case_arguments.h"
#include "harness/cli/command_fixture.h"
#include "reports/report.h"

namespace meshparity::cli {
namespace {

Finished meshparity(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), MESHPARITY_EXECUTABLE);
  return execute(std::move(arguments));
}

// Wrong usage or input: exit 2, one line on stderr that names what is wrong, nothing on stdout.
void check_refused(const std::vector<std::string>& arguments, const std::string& names) {
  const Finished run = meshparity(arguments);
  INFO(run.err);
  CHECK(run.code == 2);
  CHECK(run.out.empty());
  CHECK(std::count(run.err.begin(), run.err.end(), '\n') == 1);
  CHECK(run.err.find(names) != std::string::npos);
}

}  // namespace

TEST_CASE("a tp2 case passes through worker, layout, verdict and JSON") {
  const ScratchFolder folder;
  const std::string json = folder.file("run.json"), junit = folder.file("run.xml"),
                    markdown = folder.file("run.md");
  const Finished run = meshparity({"gate", "--model", "tiny-dense", "--batch", "rows", "--mesh", "tp2",
                                   "--json", json, "--junit", junit, "--markdown", markdown});
  INFO(run.out << run.err);
  REQUIRE(run.code == 0);
  const auto result = reports::from_json(slurp(json), json);
  REQUIRE(result.cases.size() == 1);
  CHECK(result.cases[0].state == State::pass);
  CHECK(result.cases[0].case_line == "--model tiny-dense --batch rows --mesh tp2");
  std::set<std::string> checks;
  for (const auto& check : result.cases[0].checks) checks.insert(check.check);
  CHECK(checks == std::set<std::string>{"logits", "logprobs", "loss", "grads", "grad_norm", "weights",
                                        "replicas", "placement"});
  CHECK(slurp(junit).find("<testsuite") != std::string::npos);
  CHECK(slurp(markdown).find("tp2") != std::string::npos);
}

TEST_CASE("a planted fault is FAIL, exit 1, with a line that re-runs it") {
  const Finished run = meshparity({"gate", "--model", "tiny-dense", "--batch", "rows", "--mesh", "tp2",
                                   "--fault", "conv1d-weight-not-block-sharded"});
  INFO(run.out << run.err);
  CHECK(run.code == 1);
  CHECK(run.out.find("FAIL") != std::string::npos);
  CHECK(run.out.find("rerun") != std::string::npos);
}

TEST_CASE("batches whose attention over the ring is split by documents pass, and a fault in it is red") {
  std::string batch = "tokens:700";
  for (int row = 0; row < 36; ++row) batch += "/90+1";
  std::vector<std::string> run = {"run",     "--model", "shape:layers=ga", "--batch", batch,
                                  "--steps", "0",       "--mesh",          "ring2"};
  for (const char* attn : {"ring", "gather"}) {
    auto words = run;
    words.insert(words.end(), {"--attn", attn});
    const Finished found = meshparity(words);
    INFO(found.out << found.err);
    CHECK(found.code == 0);
  }
  run.insert(run.end(), {"--fault", "ring-bwd-local-lse"});
  CHECK(meshparity(run).code == 1);
}

TEST_CASE("what a golden lacks is judged against the live reference, and the report says so") {
  const ScratchFolder folder;
  const std::string json = folder.file("run.json");
  const Finished run = meshparity({"gate", "--model", "tiny-moe", "--batch", "single", "--mesh", "tp3,dp2",
                                   "--json", json, "--json-detail"});
  INFO(run.out << run.err);
  REQUIRE(run.code == 0);
  const auto result = reports::from_json(slurp(json), json);
  int golden = 0, reference = 0;
  for (const auto& c : result.cases)
    for (const auto& check : c.checks)
      golden += check.against == "golden", reference += check.against == "reference";
  CHECK(golden > 0);
  CHECK(reference > 0);
}

TEST_CASE("the live reference judges a float32 run too") {
  const Finished run = meshparity({"run", "--model", "shape:", "--batch", "tokens:5+1+3", "--mesh", "tp2",
                                   "--dtype", "float32", "--steps", "2"});
  INFO(run.out << run.err);
  CHECK(run.code == 0);
}

TEST_CASE("an existing failure in a baseline is waived, a new one is not") {
  const ScratchFolder folder;
  const std::string json = folder.file("base.json");
  const std::vector<std::string> faulted = {"gate",    "--model", "tiny-dense",
                                            "--batch", "rows",    "--mesh",
                                            "tp2",     "--fault", "gradnorm-replicated-overcount"};
  auto arguments = faulted;
  arguments.insert(arguments.end(), {"--json", json});
  REQUIRE(meshparity(arguments).code == 1);
  arguments = faulted;
  arguments.insert(arguments.end(), {"--baseline", json});
  CHECK(meshparity(arguments).code == 0);
  CHECK(meshparity({"gate", "--model", "tiny-dense", "--batch", "rows", "--mesh", "tp4", "--fault",
                    "gradnorm-replicated-overcount", "--baseline", json})
            .code == 1);
}

TEST_CASE("bad usage is one clear line and exit 2") {
  check_refused({"gate", "--mesh", "xp2"}, "unknown axis 'xp'");
  check_refused({"gate", "--mesh", "tp8"}, "linear_num_key_heads=4");
  check_refused({"gate", "--mesh", "tp2", "--nonsense"}, "--nonsense");
  check_refused({"gate", "--model", "no-such-model"}, "no-such-model");
  check_refused({"gate", "--golden", "/nonexistent/a.h5"}, "/nonexistent/a.h5");
  check_refused({"gate", "--cases", "/nonexistent.cases"}, "/nonexistent.cases");
  check_refused({"gate", "--check", "logit"}, "logit");
  check_refused({"gate", "--loss", "token_mean+0.1*aus"}, "term 'aus' is unknown");
  check_refused({"gate", "--loss", "token_mean+x*lm_z"}, "weight 'x' of lm_z is no positive number");
  check_refused({"run", "--loss", "sum+0.1*sum"}, "term 'sum' stands twice");
  check_refused({"gate", "--loss", "token_mean+aux"}, "loss term aux needs a mixture-of-experts model");
  check_refused({"gate", "--mesh", "tp2", "--fault", "no-such-fault"}, "no-such-fault");
  check_refused({"gate", "--mesh", "tp2", "--json", "/nonexistent/out.json"}, "/nonexistent/out.json");
  check_refused({"gate", "--mesh", "dp1", "--sp", "on"}, "sp=on needs tp > 1");
  check_refused({"run", "--mesh", "tp2,dp2"}, "one case");
  check_refused({"frobnicate"}, "frobnicate");
  check_refused({}, "--help");
}

TEST_CASE("a case file with a typo names the file, the line and the word") {
  const ScratchFolder folder;
  const std::string file =
      folder.write("typo.cases", "# cases\n--model tiny-dense --mesh tp2\n--modle tiny-dense\n");
  check_refused({"gate", "--cases", file}, file + ":3");
  const std::string empty = folder.write("empty.cases", "# nothing\n\n");
  check_refused({"gate", "--cases", empty}, empty);
}

TEST_CASE("a config with a wrong field and a damaged golden are refused by name") {
  const ScratchFolder folder;
  std::string config = slurp(std::string(MESHPARITY_SOURCE_DIR) + "/scenarios/models/tiny-dense.json");
  const auto at = config.find("\"num_attention_heads\"");
  REQUIRE(at != std::string::npos);
  config.replace(config.find_first_of("0123456789", at), 1, "-8");
  check_refused({"gate", "--model", folder.write("bad.json", config), "--mesh", "dp1"},
                "num_attention_heads");
  const std::string golden = slurp(std::string(MESHPARITY_SOURCE_DIR) + "/golden/data/tiny-dense.single.h5");
  check_refused(
      {"gate", "--golden", folder.write("cut.h5", golden.substr(0, golden.size() / 2)), "--mesh", "dp1"},
      "cut.h5");
}

TEST_CASE("on a full disk the gate still judges, and every file it was asked for is one line and exit 2") {
  const ScratchFolder folder;
  const std::vector<std::string> gate = {MESHPARITY_EXECUTABLE,
                                         "gate",
                                         "--model",
                                         "tiny-dense",
                                         "--batch",
                                         "single",
                                         "--mesh",
                                         "dp1",
                                         "--check",
                                         "logits"};
  const Finished verdict =
      execute_on_full_disk(gate);  // the golden lacks gradients: the reference is computed
  INFO(verdict.err);
  CHECK(verdict.code == 0);
  for (const char* option : {"--json", "--junit", "--markdown", "--matrix", "--history", "--dump"}) {
    auto argv = gate;
    if (option == std::string("--dump")) argv[1] = "run";
    const std::string file = folder.write("report", "before\n");
    argv.insert(argv.end(), {option, file});
    const Finished full = execute_on_full_disk(argv);
    INFO(option << ": " << full.err);
    CHECK(full.code == 2);
    CHECK(std::count(full.err.begin(), full.err.end(), '\n') == 1);
    CHECK(full.err.find(file + ": cannot be written") != std::string::npos);
    CHECK(slurp(file) == "before\n");
    std::filesystem::remove(file);
    CHECK(execute_on_full_disk(argv).code == 2);
    CHECK(std::filesystem::is_empty(folder.file("")));
  }
}

TEST_CASE("a run that fails before its end leaves no report, and a history grows by whole lines") {
  const ScratchFolder folder;
  const std::string json = folder.file("run.json"), history = folder.write("history", "an older line\n");
  CHECK(meshparity({"gate", "--golden", folder.file("none.h5"), "--mesh", "dp1", "--json", json}).code == 2);
  CHECK(!std::filesystem::exists(json));
  for (int i = 0; i < 2; ++i)
    CHECK(meshparity({"gate", "--model", "tiny-dense", "--batch", "rows", "--mesh", "dp1", "--check",
                      "logits", "--history", history})
              .code == 0);
  const std::string text = slurp(history);
  CHECK(text.rfind("an older line\n", 0) == 0);
  CHECK(std::count(text.begin(), text.end(), '\n') == 3);
}

TEST_CASE("every expanded case line gives the same case when it is read again") {
  for (const char* text :
       {"--model tiny-dense,tiny-moe --batch single,rows --mesh world<=6 --sp all",
        "--mesh tp2 --loss all-but-not",
        "--mesh world<=2 --rollout-mesh world<=2 --rollout plain,pad=left:batch=2,top_p=0.9",
        "--mesh tp2,fsdp2 --loss sum,num_tokens --dtype float64,float32 --seed 3",
        "--mesh tp2 --tensor *norm* --check grads,logits --steps 2 --reduce permuted "
        "--engine gloo --spawn 2"}) {
    run::Expansion expansion;
    try {
      expansion = expand_cases(parse_case_line(text));
    } catch (const std::exception&) {
      CHECK(std::string(text).find("all-but-not") != std::string::npos);
      continue;
    }
    for (const auto& spec : expansion.cases) CHECK(single_case(spec.line()) == spec);
  }
}

TEST_CASE("no two cases of the gate share an id") {
  std::map<std::string, std::string> lines;
  for (const auto& spec : expand_case_file("ci").cases) {
    const auto [at, fresh] = lines.emplace(case_id(spec.line()), spec.line());
    INFO(at->second << " and " << spec.line());
    CHECK(fresh);
  }
}

}  // namespace meshparity::cli

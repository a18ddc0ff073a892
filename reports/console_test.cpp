// The failing block is a format that people grep and paste: its text is fixed here, letter for letter.
#include <catch2/catch.hpp>
#include <limits>

#include "reports/fixture.h"
#include "reports/words.h"

namespace meshparity::reports {

TEST_CASE("a failing block states first, details indented, re-runs last") {
  CHECK(failing_block(failing_case(), failing_check()) ==
        "FAIL 5c1e9a2 mesh=tp2 dtype=bfloat16 check=grads tensor=model.layers.3.mlp.down_proj.weight  "
        "41/524288 outside, "
        "0 nonfinite, worst 3.0x bound\n"
        "  worst   [17,402] on tp1 local [17,146]   got -3.1250e-02  want -2.9419e-02  abs 1.8e-03  bound "
        "6.1e-04\n"
        "  where   41 of 524288 (0.0078 %) outside, all in columns 384..511\n"
        "  bound   tolerance row grads/bfloat16: 4 u sqrt(k) * absmag\n"
        "  rerun   ./meshparity run --model tiny-dense --batch packed-odd --mesh tp2 --sp on --dtype "
        "bfloat16 --check "
        "grads --tensor model.layers.3.mlp.down_proj.weight\n");
}

TEST_CASE("what could not be compared says why instead of counts") {
  const CaseResult result = failing_case();
  CHECK(failing_block(result, result.checks[2]) ==
        "INVALID 5c1e9a2 mesh=tp2 dtype=bfloat16 check=grads tensor=lm_head.weight  missing\n"
        "  rerun   ./meshparity run --model tiny-dense --batch packed-odd --mesh tp2 --sp on --dtype "
        "bfloat16 --check "
        "grads --tensor lm_head.weight\n");
}

TEST_CASE("a bound of zero and values that are not finite are said in words") {
  CaseResult result = failing_case();
  CheckResult check = failing_check();
  check.bound_used = std::numeric_limits<double>::infinity();
  CHECK(failing_block(result, check).find("0 nonfinite, where nothing may differ\n") != std::string::npos);
  check.bound_used = std::numeric_limits<double>::quiet_NaN();
  check.got = std::numeric_limits<double>::quiet_NaN();
  CHECK(failing_block(result, check).find("got nan") != std::string::npos);
}

TEST_CASE("within a check what cannot be judged comes first, and the rest is counted") {
  CaseResult result = failing_case();
  const std::string text = case_text(result);
  CHECK(text.rfind("INVALID ", 0) == 0);
  CHECK(text.find("\nFAIL ") != std::string::npos);
  CHECK(text.find("logits") == std::string::npos);
  for (int i = 0; i < 9; ++i) result.checks.push_back(failing_check());
  CHECK(case_text(result).find(
            "  more    6 tensors of this case not shown; all: ./meshparity run --model tiny-dense "
            "--batch packed-odd --mesh tp2 --sp on --dtype bfloat16\n") != std::string::npos);
}

TEST_CASE("a case that has no verdicts is one greppable line and its re-run") {
  Run run = mixed_run();
  run.cases[0].checks.push_back(passing_check("loss", "loss/sum", 0));
  run.cases[0].checks.back().state = State::skip;  // listed, not judged
  CHECK(case_text(run.cases[0]) ==
        "PASS 0000001 mesh=fsdp2.tp2 dtype=float64  2 tensors, worst bound used 12 % (grads "
        "model.norm.weight)\n");
  CHECK(case_text(run.cases[2]) ==
        "SKIP 0000002 mesh=tp8 dtype=float64  tp8: tp must divide linear_num_key_heads=6\n");
  CHECK(case_text(run.cases[3]) ==
        "ERROR 0000003 mesh=tp4 dtype=float64  killed by SIGSEGV; stderr ends:  [31mred  <end>\n"
        "  rerun   ./meshparity run --model tiny-dense --batch rows --mesh tp4\n");
}

TEST_CASE("a case that was shrunk ends with the smaller line, wherever it is reported") {
  const std::string smaller = "--model shape:layers=g --batch tokens:2 --mesh tp2";
  Run run = mixed_run();
  CHECK(case_text(run.cases[1]).find("shrunk") == std::string::npos);
  for (auto& result : run.cases) {
    if (!is_bad(result.state)) continue;
    result.shrunk = smaller;
    const std::string text = case_text(result), end = "\n  shrunk  ./meshparity run " + smaller + "\n";
    CHECK(text.size() > end.size());
    CHECK(text.substr(text.size() - end.size()) == end);
    CHECK(case_from_json(case_to_json(result)).shrunk == smaller);
  }
  const std::string junit = to_junit(run), markdown = to_markdown(run);
  for (const auto* text : {&junit, &markdown}) {
    const auto first = text->find(smaller);
    REQUIRE(first != std::string::npos);
    CHECK(text->find(smaller, first + 1) != std::string::npos);  // the failing case and the one that crashed
  }
}

TEST_CASE("random models share one column of the matrix") {
  Run run = mixed_run();
  run.cases[0].case_line = "--model shape:layers=g --batch tokens:2 --mesh tp2";
  run.cases[1].case_line = "--model shape:layers=a --batch tokens:3 --mesh tp2";
  CHECK(to_markdown(run).find("| mesh | shape:... |") != std::string::npos);
}

TEST_CASE("every failing check of a case is shown before a second tensor of one") {
  CaseResult result = failing_case();
  result.checks.insert(result.checks.end(), 8, failing_check());
  CheckResult loss = failing_check();
  loss.check = "loss", loss.tensor = "loss/sum";
  result.checks.push_back(loss);
  const std::string text = case_text(result, 2);
  CHECK(text.find("check=grads tensor=lm_head.weight") != std::string::npos);
  CHECK(text.find("check=loss tensor=loss/sum") != std::string::npos);
  CHECK(text.find("  more    9 tensors") != std::string::npos);
}

TEST_CASE("another verb's case claims no dtype it was not given") {
  CaseResult result = failing_case();
  result.case_line = "compare --golden g.h5 d.h5";
  CHECK(failing_block(result, failing_check()).rfind("FAIL 5c1e9a2 check=grads tensor=", 0) == 0);
  result.case_line += " --dtype float32";
  CHECK(failing_block(result, failing_check()).rfind("FAIL 5c1e9a2 dtype=float32 check=grads tensor=", 0) ==
        0);
}

TEST_CASE("the verdict table has one line per check") {
  CaseResult result = failing_case();
  CheckResult skipped = passing_check("logits", "logits2", 0);
  skipped.state = State::skip;
  result.checks.push_back(skipped);
  CHECK(verdict_table(result) ==
        "check        state      judged  not judged  worst bound used\n"
        "logits       PASS            1           1  2 %  logits\n"
        "grads        INVALID         2           0  3.0x  model.layers.3.mlp.down_proj.weight\n");
}

TEST_CASE("the summary counts every state that occurs and names the worst share of a bound") {
  Run run = mixed_run();
  CHECK(summary_text(run) ==
        "4 listed  1 pass  1 fail  1 skip  1 error  worst bound used 3.0x (grads "
        "model.layers.3.mlp.down_proj.weight, "
        "tp2)  3.8 s");
  run.cases.resize(1);
  CHECK(summary_text(run) ==
        "4 listed  1 pass  0 fail  0 skip  (1 of 4 have a result)  worst bound used 12 % (grads "
        "model.norm.weight, "
        "fsdp2.tp2)  3.8 s");
}

TEST_CASE("a re-run line keeps quoting, replaces old filters and knows other verbs") {
  CaseResult result;
  result.case_line = "--golden 'my file.h5' --mesh tp2 --check loss --tensor '*norm*' --seed 3";
  CHECK(rerun_line(result, "grads", "a*b") ==
        "./meshparity run --golden 'my file.h5' --mesh tp2 --seed 3 --check grads --tensor 'a*b'");
  result.case_line = "compare --golden g.h5 'it'\\''s.h5'";
  CHECK(rerun_line(result, "loss", "loss/sum") ==
        "./meshparity compare --golden g.h5 'it'\\''s.h5' --check loss --tensor loss/sum");
}

TEST_CASE("shares of a bound read as percent up to the bound and as factors beyond") {
  CHECK(share_of_bound(0) == "0 %");
  CHECK(share_of_bound(1e-9) == "<0.1 %");
  CHECK(share_of_bound(0.0123) == "1.2 %");
  CHECK(share_of_bound(1) == "100 %");
  CHECK(share_of_bound(1.04) == "1.0x");
  CHECK(share_of_bound(3.2e7) == "3.2e+07x");
}

}  // namespace meshparity::reports

// Verdicts survive JSON bit for bit, NaN and infinities included, and damaged JSON is refused by field.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "harness/types/error.h"
#include "reports/fixture.h"

namespace meshparity::reports {
namespace {

bool same(double a, double b) {
  return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
}

void check_same(const CheckResult& a, const CheckResult& b) {
  CHECK(a.check == b.check);
  CHECK(a.tensor == b.tensor);
  CHECK(a.state == b.state);
  CHECK(same(a.bound_used, b.bound_used));
  CHECK(same(a.max_abs, b.max_abs));
  CHECK(same(a.max_rel, b.max_rel));
  CHECK(a.where == b.where);
  CHECK(a.reason == b.reason);
  CHECK(a.against == b.against);
  CHECK(a.elements == b.elements);
  CHECK(a.outside == b.outside);
  CHECK(a.nonfinite == b.nonfinite);
  CHECK(a.worst == b.worst);
  CHECK(same(a.got, b.got));
  CHECK(same(a.want, b.want));
  CHECK(same(a.bound, b.bound));
  CHECK(a.detail == b.detail);
}

void check_same(const CaseResult& a, const CaseResult& b) {
  CHECK(a.id == b.id);
  CHECK(a.case_line == b.case_line);
  CHECK(a.state == b.state);
  CHECK(same(a.seconds, b.seconds));
  CHECK(a.reason == b.reason);
  REQUIRE(a.checks.size() == b.checks.size());
  for (std::size_t i = 0; i < a.checks.size(); ++i) check_same(a.checks[i], b.checks[i]);
  CHECK(a.costs == b.costs);
}

}  // namespace

TEST_CASE("a case is one line of JSON and comes back bit for bit") {
  CaseResult result = failing_case();
  result.reason = "two\nlines \"quoted\" \\ \t \x01 and \xc3\xa9";
  CheckResult odd;
  odd.check = "loss", odd.tensor = "loss/sum", odd.state = State::invalid;
  odd.bound_used = std::numeric_limits<double>::infinity();
  odd.got = std::numeric_limits<double>::quiet_NaN(), odd.want = -std::numeric_limits<double>::infinity();
  odd.bound = -0.0, odd.max_abs = 0.1 + 0.2, odd.max_rel = std::numeric_limits<double>::denorm_min();
  result.checks.push_back(odd);
  result.costs = {{"ranks: step", 1.25, std::int64_t{13} << 30}, {"judge", 0.5, 0}};
  const std::string line = case_to_json(result);
  CHECK(line.find('\n') == std::string::npos);
  check_same(case_from_json(line), result);
}

TEST_CASE("every state survives the round trip") {
  for (State state : {State::pass, State::fail, State::skip, State::invalid, State::untrusted, State::waived,
                      State::error, State::timeout}) {
    CaseResult result;
    result.case_line = "--mesh dp1", result.state = state;
    check_same(case_from_json(case_to_json(result)), result);
  }
}

TEST_CASE("bytes that are no UTF-8 never break the line") {
  CaseResult result;
  result.case_line = "--mesh dp1", result.reason = "\xff\xfe cut \xe2\x82";
  CHECK(case_from_json(case_to_json(result)).reason.find("cut") != std::string::npos);
}

TEST_CASE("a whole run survives, and its summary counts by state") {
  const Run run = mixed_run();
  const std::string text = to_json(run, false);
  CHECK(text.find("\"listed\": 4") != std::string::npos);
  CHECK(text.find("\"error\": 1") != std::string::npos);
  const Run back = from_json(text, "run.json");
  CHECK(back.command == run.command);
  CHECK(back.versions == run.versions);
  CHECK(back.listed == 4);
  CHECK(back.seconds == run.seconds);
  REQUIRE(back.cases.size() == run.cases.size());
  for (std::size_t i = 0; i < run.cases.size(); ++i)
    if (run.cases[i].state != State::error) check_same(back.cases[i], run.cases[i]);
}

TEST_CASE("above 2,000 cases each keeps its worst verdict per check unless detail is asked for") {
  Run run;
  CaseResult result = failing_case();
  result.checks.push_back(passing_check("logits", "logits2", 0.5));
  run.cases.assign(2001, result);
  run.listed = 2001;
  const Run small = from_json(to_json(run, false), "f");
  REQUIRE(small.cases[2000].checks.size() == 2);
  CHECK(small.cases[2000].checks[0].tensor == "logits2");
  CHECK(small.cases[2000].checks[1].state == State::invalid);
  CHECK(from_json(to_json(run, true), "f").cases[7].checks.size() == 4);
  run.cases.resize(2000);
  CHECK(from_json(to_json(run, false), "f").cases[7].checks.size() == 4);
}

TEST_CASE("damaged JSON is refused with file and field") {
  const std::string good = to_json(mixed_run(), false);
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const auto at = text.find(from);
    REQUIRE(at != std::string::npos);
    return text.replace(at, from.size(), to);
  };
  struct Wrong {
    std::string text;
    const char* said;
  };
  const Wrong wrongs[] = {
      {"", "run.json: not JSON"},
      {good.substr(0, good.size() / 2), "run.json: not JSON"},
      {"[]", "must be an object"},
      {"{}", "run.json: schema: must be 1"},
      {replaced("\"schema\": 1", "\"schema\": 2"), "run.json: schema: must be 1"},
      {replaced("\"listed\": 4", "\"listed\": -4"), "run.json: summary.listed: must not be negative"},
      {replaced("\"state\": \"PASS\"", "\"state\": \"FINE\""), "run.json: cases[0].state: is no state"},
      {replaced("\"bound_used\": 0.0301", "\"bound_used\": null"),
       "run.json: cases[0].checks[0].bound_used: must be"},
      {replaced("\"elements\": 10", "\"elements\": \"10\""),
       "run.json: cases[0].checks[0].elements: must be"},
      {replaced("\"cases\": [", "\"cses\": ["), "run.json: cases: missing"},
  };
  for (const auto& wrong : wrongs)
    CHECK_THROWS_WITH(from_json(wrong.text, "run.json"), Catch::Contains(wrong.said));
  CHECK_THROWS_AS(case_from_json("killed"), InputError);
  CHECK_THROWS_AS(case_from_json("{\"case\":\"x\"}"), InputError);
}

}  // namespace meshparity::reports

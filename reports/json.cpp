// Verdicts as JSON and back: one case per line between processes, a whole run for `--json`. Numbers that JSON
// cannot hold (NaN and infinities) are the strings "nan", "inf" and "-inf". A field added to CheckResult is
// added to check_json and to read_check, and the round trip in json_test.cpp then covers it.
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "harness/types/error.h"
#include "reports/json_number.h"
#include "reports/report.h"
#include "reports/words.h"

namespace meshparity::reports {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kSchema = 1;
// Above so many cases every tensor of every case would be too much to read or to keep.
constexpr std::size_t kDetailCases = 2000;

Json check_json(const CheckResult& c) {
  Json j = {{"check", c.check},
            {"tensor", c.tensor},
            {"state", state_name(c.state)},
            {"bound_used", json_number(c.bound_used)},
            {"max_abs", json_number(c.max_abs)},
            {"max_rel", json_number(c.max_rel)},
            {"where", c.where}};
  const CheckResult plain;
  if (!c.reason.empty()) j["reason"] = c.reason;
  if (!c.against.empty()) j["against"] = c.against;
  if (c.elements) j["elements"] = c.elements;
  if (c.outside) j["outside"] = c.outside;
  if (c.nonfinite) j["nonfinite"] = c.nonfinite;
  if (c.worst != plain.worst) j["worst"] = c.worst;
  // Not-a-number is unequal to 0 and so is kept; -0 is written too.
  if (c.got != 0 || std::signbit(c.got)) j["got"] = json_number(c.got);
  if (c.want != 0 || std::signbit(c.want)) j["want"] = json_number(c.want);
  if (c.bound != 0 || std::signbit(c.bound)) j["bound"] = json_number(c.bound);
  if (!c.detail.empty()) j["detail"] = c.detail;
  return j;
}

Json case_json(const CaseResult& c, bool every_tensor) {
  Json j = {{"id", c.id},
            {"case", c.case_line},
            {"state", state_name(c.state)},
            {"seconds", json_number(c.seconds)}};
  if (!c.reason.empty()) j["reason"] = c.reason;
  if (!c.shrunk.empty()) j["shrunk"] = c.shrunk;
  Json checks = Json::array();
  if (every_tensor) {
    for (const auto& check : c.checks) checks.push_back(check_json(check));
  } else {
    for (const auto& name : checks_of({&c, 1})) {
      const CheckResult* kept = nullptr;
      for (const auto& check : c.checks) {
        if (check.check != name) continue;
        const bool more = !kept || worse(check.state, kept->state) ||
                          (!worse(kept->state, check.state) && check.bound_used > kept->bound_used);
        if (more) kept = &check;
      }
      checks.push_back(check_json(*kept));
    }
  }
  j["checks"] = std::move(checks);
  for (const auto& cost : c.costs)
    j["costs"].push_back(
        {{"part", cost.part}, {"seconds", json_number(cost.seconds)}, {"peak_bytes", cost.peak_bytes}});
  return j;
}

// One line whatever the strings hold: bytes that are no UTF-8 become U+FFFD.
std::string dumped(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

// Typed reading of one JSON object; every error names file and field.
class Reader {
 public:
  Reader(const Json& json, std::string file, std::string at)
      : json_(json), file_(std::move(file)), at_(std::move(at)) {
    if (!json.is_object()) throw InputError(file_, at_, "must be an object");
  }
  const Json* find(const char* key) const {
    const auto it = json_.find(key);
    return it == json_.end() ? nullptr : &*it;
  }
  [[noreturn]] void fail(const char* key, const char* what) const {
    throw InputError(file_, at_ + (at_.empty() ? "" : ".") + key, what);
  }
  const Json& need(const char* key) const {
    const Json* value = find(key);
    if (!value) fail(key, "missing");
    return *value;
  }
  std::string text(const char* key) const {
    const Json* value = find(key);
    if (!value) return "";
    if (!value->is_string()) fail(key, "must be text");
    return value->get<std::string>();
  }
  double number(const char* key) const {
    const Json* value = find(key);
    if (!value) return 0;
    if (value->is_number()) return value->get<double>();
    if (*value == "nan") return std::numeric_limits<double>::quiet_NaN();
    if (*value == "inf") return std::numeric_limits<double>::infinity();
    if (*value == "-inf") return -std::numeric_limits<double>::infinity();
    fail(key, "must be a number");
  }
  std::int64_t whole(const char* key, std::int64_t fallback) const {
    const Json* value = find(key);
    if (!value) return fallback;
    if (!value->is_number_integer()) fail(key, "must be a whole number");
    return value->get<std::int64_t>();
  }
  State state() const {
    need("state");
    try {
      return parse_state(text("state"));
    } catch (const InputError&) {
      fail("state", "is no state");
    }
  }
  std::vector<std::string> texts(const char* key) const {
    std::vector<std::string> list;
    const Json* value = find(key);
    if (!value) return list;
    if (!value->is_array()) fail(key, "must be a list");
    for (const auto& entry : *value) {
      if (!entry.is_string()) fail(key, "must be a list of texts");
      list.push_back(entry.get<std::string>());
    }
    return list;
  }
  // Readers of the objects in a list.
  template <class Read>
  void each(const char* key, Read read) const {
    const Json& list = need(key);
    if (!list.is_array()) fail(key, "must be a list");
    for (std::size_t i = 0; i < list.size(); ++i)
      read(Reader(list[i], file_, at_ + (at_.empty() ? "" : ".") + key + "[" + std::to_string(i) + "]"));
  }

 private:
  const Json& json_;
  std::string file_, at_;
};

CheckResult read_check(const Reader& r) {
  CheckResult c;
  c.check = r.text("check");
  c.tensor = r.text("tensor");
  c.state = r.state();
  c.bound_used = r.number("bound_used");
  c.max_abs = r.number("max_abs");
  c.max_rel = r.number("max_rel");
  c.where = r.text("where");
  c.reason = r.text("reason");
  c.against = r.text("against");
  c.elements = r.whole("elements", 0);
  c.outside = r.whole("outside", 0);
  c.nonfinite = r.whole("nonfinite", 0);
  c.worst = r.whole("worst", c.worst);
  c.got = r.number("got");
  c.want = r.number("want");
  c.bound = r.number("bound");
  c.detail = r.texts("detail");
  return c;
}

CaseResult read_case(const Reader& r) {
  CaseResult c;
  c.id = r.text("id");
  r.need("case");
  c.case_line = r.text("case");
  c.state = r.state();
  c.seconds = r.number("seconds");
  c.reason = r.text("reason");
  c.shrunk = r.text("shrunk");
  r.each("checks", [&](const Reader& check) { c.checks.push_back(read_check(check)); });
  if (r.find("costs"))
    r.each("costs", [&](const Reader& cost) {
      c.costs.push_back({cost.text("part"), cost.number("seconds"), cost.whole("peak_bytes", 0)});
    });
  return c;
}

Json parsed(const std::string& text, const std::string& file) {
  try {
    return Json::parse(text);
  } catch (const Json::exception&) {
    throw InputError(file + ": not JSON, or cut off");
  }
}

}  // namespace

std::string case_to_json(const CaseResult& result) {
  return dumped(case_json(result, true));
}

CaseResult case_from_json(const std::string& line) {
  const Json json = parsed(line, "worker's answer");
  return read_case(Reader(json, "worker's answer", ""));
}

std::string to_json(const Run& run, bool detail) {
  std::array<std::size_t, 8> count{};
  for (const auto& c : run.cases) ++count[static_cast<std::size_t>(c.state)];
  const auto of = [&](State state) { return count[static_cast<std::size_t>(state)]; };
  Json json = {{"schema", kSchema},
               {"command", run.command},
               {"version", run.version},
               {"versions", run.versions},
               {"summary",
                {{"listed", run.listed},
                 {"pass", of(State::pass)},
                 {"fail", of(State::fail)},
                 {"skip", of(State::skip)},
                 {"invalid", of(State::invalid)},
                 {"untrusted", of(State::untrusted)},
                 {"waived", of(State::waived)},
                 {"error", of(State::error)},
                 {"timeout", of(State::timeout)},
                 {"seconds", json_number(run.seconds)}}}};
  Json cases = Json::array();
  const bool every_tensor = detail || run.cases.size() <= kDetailCases;
  for (const auto& c : run.cases) cases.push_back(case_json(c, every_tensor));
  json["cases"] = std::move(cases);
  return dumped(json, 1) + "\n";
}

Run from_json(const std::string& text, const std::string& file) {
  const Json json = parsed(text, file);
  const Reader r(json, file, "");
  if (r.whole("schema", 0) != kSchema) r.fail("schema", "must be 1");
  Run run;
  run.command = r.text("command");
  run.version = r.text("version");
  run.versions = r.texts("versions");
  const Reader summary(r.need("summary"), file, "summary");
  run.seconds = summary.number("seconds");
  const std::int64_t listed = summary.whole("listed", 0);
  if (listed < 0) summary.fail("listed", "must not be negative");
  run.listed = static_cast<std::size_t>(listed);
  r.each("cases", [&](const Reader& c) { run.cases.push_back(read_case(c)); });
  return run;
}

}  // namespace meshparity::reports

// JUnit XML: one testcase per case and check, so that a CI page shows which check of which mesh failed. SKIP
// is skipped, ERROR and TIMEOUT are errors, every other bad state a failure whose text is the failing block.
#include <cstdio>
#include <map>

#include "reports/report.h"
#include "reports/words.h"
#include "reports/xml.h"

namespace meshparity::reports {
namespace {

// Length of the well-formed UTF-8 sequence at text[i] that XML 1.0 allows, or 0.
std::size_t xml_character(std::string_view text, std::size_t i) {
  const auto byte = [&](std::size_t k) { return k < text.size() ? static_cast<unsigned char>(text[k]) : 0u; };
  const unsigned first = byte(i);
  if (first < 0x80) return first >= 0x20 || first == '\t' || first == '\n' || first == '\r' ? 1 : 0;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return 0;
  unsigned code = first & (0xffu >> (length + 1));
  for (std::size_t k = 1; k < length; ++k) {
    if ((byte(i + k) & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte(i + k) & 0x3f);
  }
  constexpr unsigned kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  if (code < kLeast[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff) || code == 0xfffe ||
      code == 0xffff)
    return 0;
  return length;
}

struct Tally {
  std::size_t tests = 0, failures = 0, errors = 0, skipped = 0;
};

std::string seconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", seconds);
  return text;
}

void add_testcase(std::string& out, Tally& tally, const CaseResult& result, const std::string& check,
                  State state, double seconds, const std::string& message, const std::string& text) {
  const std::string model = option_of(result.case_line, "model"),
                    batch = option_of(result.case_line, "batch");
  const std::string group = model.empty() ? "meshparity" : model + (batch.empty() ? "" : "." + batch);
  const std::string name = result.case_line + (check.empty() ? "" : " --check " + check);
  out += "  <testcase classname=\"" + xml_escaped(group) + "\" name=\"" + xml_escaped(name) + "\" time=\"" +
         seconds_text(seconds) + "\"";
  ++tally.tests;
  const char* element = nullptr;
  if (state == State::skip || state == State::waived)
    element = "skipped", ++tally.skipped;
  else if (state == State::error || state == State::timeout)
    element = "error", ++tally.errors;
  else if (state != State::pass)
    element = "failure", ++tally.failures;
  if (!element) {
    out += "/>\n";
    return;
  }
  out += std::string(">\n    <") + element + " type=\"" + std::string(state_name(state)) + "\" message=\"" +
         xml_escaped(one_line(message)) + "\">" + xml_escaped(text) + "</" + element + ">\n  </testcase>\n";
}

void add_case(std::string& out, Tally& tally, const CaseResult& result) {
  double seconds = result.seconds;
  State worst = State::pass;
  for (const auto& name : checks_of({&result, 1})) {
    CaseResult part = result;
    std::erase_if(part.checks, [&](const CheckResult& c) { return c.check != name; });
    State state = State::pass;
    for (const auto& c : part.checks)
      if (worse(c.state, state)) state = c.state;
    if (worse(state, worst)) worst = state;
    std::string text, message;
    if (state != State::pass) {
      text = case_text(part);
      message = text.substr(0, text.find('\n'));
    }
    add_testcase(out, tally, result, name, state, seconds, message, text);
    seconds = 0;  // the case's time counts once
  }
  // A case without verdicts, or worse than all of them (it crashed, compared nothing, was skipped).
  if (result.checks.empty() || worse(result.state, worst)) {
    std::string text = result.reason;
    if (is_bad(result.state)) text += "\nrerun   " + rerun_line(result, "", "");
    if (!result.shrunk.empty()) text += "\nshrunk  ./meshparity run " + result.shrunk;
    add_testcase(out, tally, result, "", result.state, seconds, result.reason, text);
  }
}

}  // namespace

std::string xml_escaped(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = xml_character(text, i);
    if (length == 0) {
      out += "\xef\xbf\xbd";
      ++i;
      continue;
    }
    switch (text[i]) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&apos;";
        break;
      case '\n':
        out += "&#10;";
        break;
      case '\r':
        out += "&#13;";
        break;
      case '\t':
        out += "&#9;";
        break;
      default:
        out += text.substr(i, length);
    }
    i += length;
  }
  return out;
}

std::string to_junit(const Run& run) {
  std::string cases;
  Tally tally;
  for (const auto& result : run.cases) add_case(cases, tally, result);
  const std::string counts = " tests=\"" + std::to_string(tally.tests) + "\" failures=\"" +
                             std::to_string(tally.failures) + "\" errors=\"" + std::to_string(tally.errors) +
                             "\" skipped=\"" + std::to_string(tally.skipped) + "\" time=\"" +
                             seconds_text(run.seconds) + "\"";
  return "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"meshparity\"" + counts +
         ">\n <testsuite name=\"" + xml_escaped(run.command.empty() ? "meshparity" : run.command) + "\"" +
         counts + ">\n" + cases + " </testsuite>\n</testsuites>\n";
}

}  // namespace meshparity::reports

#include "reports/words.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "harness/types/command_line.h"

namespace meshparity::reports {
namespace {

std::string formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

}  // namespace

std::string option_of(const std::string& case_line, const std::string& name) {
  const auto words = split_words(case_line);
  const std::string option = "--" + name;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == option) return i + 1 < words.size() ? words[i + 1] : "";
    if (words[i].rfind(option + "=", 0) == 0) return words[i].substr(option.size() + 1);
  }
  return "";
}

std::string rerun_line(const CaseResult& result, const std::string& check, const std::string& tensor) {
  std::string line;
  bool value_follows = false;
  for (const auto& word : split_words(result.case_line)) {
    const bool dropped = std::exchange(value_follows, false);
    if (dropped) continue;
    if (word == "--check" || word == "--tensor") {
      value_follows = true;
      continue;
    }
    if (word.rfind("--check=", 0) == 0 || word.rfind("--tensor=", 0) == 0) continue;
    line += (line.empty() ? "" : " ") + quoted(word);
  }
  if (!check.empty()) line += " --check " + quoted(check);
  if (!tensor.empty()) line += " --tensor " + quoted(tensor);
  // A line of case options re-runs with `run`; a line of another verb starts with that verb.
  return std::string("./meshparity ") + (line.rfind("--", 0) == 0 ? "run " : "") + line;
}

std::string case_words(const CaseResult& result) {
  std::string words;
  if (const std::string mesh = option_of(result.case_line, "mesh"); !mesh.empty())
    words = "mesh=" + mesh + " ";
  if (const std::string rollout = option_of(result.case_line, "rollout-mesh"); !rollout.empty())
    words += "rollout-mesh=" + rollout + " ";
  const std::string dtype = option_of(result.case_line, "dtype");
  // float64 is what a line of case options means by default; another verb's line says nothing about its
  // files.
  const bool case_options = result.case_line.rfind("--", 0) == 0;
  if (!dtype.empty() || case_options) words += "dtype=" + (dtype.empty() ? "float64" : dtype) + " ";
  return words;
}

std::string one_line(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  out.erase(out.find_last_not_of(' ') + 1);
  return out;
}

std::string scientific(double value) {
  return formatted("%.4e", value);
}
std::string short_scientific(double value) {
  return formatted("%.1e", value);
}

std::string share_of_bound(double bound_used) {
  if (std::isnan(bound_used)) return "nan";
  if (std::isinf(bound_used)) return "beyond a bound of 0";
  if (bound_used > 1) return formatted(bound_used < 1000 ? "%.1fx" : "%.1ex", bound_used);
  const double percent = 100 * bound_used;
  if (percent > 0 && percent < 0.1) return "<0.1 %";
  return formatted(percent < 10 ? "%.2g %%" : "%.0f %%", percent);
}

bool is_bad(State state) {
  return state != State::pass && state != State::skip && state != State::waived;
}

Worst worst_of(std::span<const CaseResult> cases, const std::string& check) {
  Worst worst;
  for (const auto& c : cases)
    for (const auto& r : c.checks) {
      if (r.state == State::skip || (!check.empty() && r.check != check)) continue;
      // A NaN share is worse than any number.
      const bool more = !worst.check || std::isnan(r.bound_used) || r.bound_used > worst.check->bound_used;
      if (more) worst = {&c, &r};
    }
  return worst;
}

std::vector<std::string> checks_of(std::span<const CaseResult> cases) {
  std::vector<std::string> names;
  for (const auto& c : cases)
    for (const auto& r : c.checks)
      if (std::find(names.begin(), names.end(), r.check) == names.end()) names.push_back(r.check);
  return names;
}

}  // namespace meshparity::reports

// What a terminal and a log get: one greppable line per verdict, its detail indented under it, the line that
// re-runs it last. The format of the failing block is fixed by golden text in console_test.cpp.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>

#include "reports/report.h"
#include "reports/words.h"

namespace meshparity::reports {
namespace {

// Detail lines align behind a label of this width: "worst   ", "rerun   ".
std::string labelled(std::string label, const std::string& text) {
  label.resize(std::max<std::size_t>(label.size() + 1, 8), ' ');
  return "  " + label + text + "\n";
}

// "41/524288 outside, 0 nonfinite, worst 3.0x bound", or why there is nothing to count.
std::string counts(const CheckResult& check) {
  if (check.elements == 0) return one_line(check.reason);
  std::string text = std::to_string(check.outside) + "/" + std::to_string(check.elements) + " outside, " +
                     std::to_string(check.nonfinite) + " nonfinite";
  if (std::isinf(check.bound_used))
    text += ", where nothing may differ";
  else if (check.bound_used > 0)
    text +=
        ", worst " + share_of_bound(check.bound_used) + (check.bound_used > 1 ? " bound" : " of its bound");
  return text;
}

std::string plural(std::size_t n, const char* word) {
  return std::to_string(n) + " " + word + (n == 1 ? "" : "s");
}

// The line that runs the smaller case that fails in the same way.
std::string shrunk_line(const CaseResult& result) {
  return result.shrunk.empty() ? "" : labelled("shrunk", "./meshparity run " + result.shrunk);
}

std::size_t judged(const CaseResult& result) {
  return static_cast<std::size_t>(
      std::count_if(result.checks.begin(), result.checks.end(),
                    [](const auto& check) { return check.state != State::skip; }));
}

// The verdicts of a case that are not PASS: checks in the order they ran (an early one explains the later
// ones), within a check what cannot be judged first, then the largest share of the bound.
std::vector<const CheckResult*> bad_checks(const CaseResult& result) {
  std::map<std::string, std::size_t> order;
  std::vector<const CheckResult*> list;
  for (const auto& check : result.checks) {
    order.emplace(check.check, order.size());
    if (is_bad(check.state)) list.push_back(&check);
  }
  std::stable_sort(list.begin(), list.end(), [&](const CheckResult* a, const CheckResult* b) {
    if (a->check != b->check) return order[a->check] < order[b->check];
    if (a->state != b->state) return worse(a->state, b->state);
    return a->bound_used > b->bound_used;
  });
  return list;
}

// Which of them to show: the first of every check, then as many as there is room for.
std::vector<bool> chosen(const std::vector<const CheckResult*>& bad, std::size_t most) {
  std::vector<bool> shown(bad.size(), false);
  std::size_t room = most;
  for (std::size_t i = 0; i < bad.size() && room > 0; ++i)
    if (i == 0 || bad[i]->check != bad[i - 1]->check) shown[i] = true, --room;
  for (std::size_t i = 0; i < bad.size() && room > 0; ++i)
    if (!shown[i]) shown[i] = true, --room;
  return shown;
}

}  // namespace

std::string failing_block(const CaseResult& result, const CheckResult& check) {
  std::string head = std::string(state_name(check.state)) + " " + result.id + " " + case_words(result) +
                     "check=" + check.check + " tensor=" + one_line(check.tensor);
  const std::string counted = counts(check);
  std::string text = head + (counted.empty() ? "" : "  " + counted) + "\n";
  if (check.elements > 0 && !check.where.empty())
    text += labelled("worst", one_line(check.where) + "   got " + scientific(check.got) + "  want " +
                                  scientific(check.want) + "  abs " + short_scientific(check.max_abs) +
                                  "  bound " + short_scientific(check.bound));
  if (check.elements > 0 && !check.reason.empty()) text += labelled("reason", one_line(check.reason));
  if (!check.against.empty() && check.against != "golden")
    text += labelled("against", one_line(check.against));
  for (const auto& line : check.detail) text += "  " + one_line(line) + "\n";
  return text + labelled("rerun", rerun_line(result, check.check, check.tensor));
}

std::string case_text(const CaseResult& result, std::size_t most) {
  std::string text;
  const auto bad = bad_checks(result);
  const std::vector<bool> shown = chosen(bad, most);
  for (std::size_t i = 0; i < bad.size(); ++i)
    if (shown[i]) text += failing_block(result, *bad[i]);
  if (bad.size() > most) {
    text += labelled("more", plural(bad.size() - most, "tensor") +
                                 " of this case not shown; all: " + rerun_line(result, "", ""));
  }
  if (!bad.empty()) return text + shrunk_line(result);
  text = std::string(state_name(result.state)) + " " + result.id + " " + case_words(result);
  text.erase(text.find_last_not_of(' ') + 1);
  if (!result.reason.empty()) text += "  " + one_line(result.reason);
  if (!is_bad(result.state)) {
    const Worst worst = worst_of({&result, 1}, "");
    if (worst.check && result.reason.empty())
      text += "  " + plural(judged(result), "tensor") + ", worst bound used " +
              share_of_bound(worst.check->bound_used) + " (" + worst.check->check + " " +
              one_line(worst.check->tensor) + ")";
    return text + "\n";
  }
  return text + "\n" + labelled("rerun", rerun_line(result, "", "")) + shrunk_line(result);
}

std::string verdict_table(const CaseResult& result) {
  std::string text = "check        state      judged  not judged  worst bound used\n";
  for (const auto& name : checks_of({&result, 1})) {
    std::size_t judged = 0, skipped = 0;
    State state = State::skip;
    for (const auto& check : result.checks) {
      if (check.check != name) continue;
      ++(check.state == State::skip ? skipped : judged);
      if (worse(check.state, state)) state = check.state;
    }
    const Worst worst = worst_of({&result, 1}, name);
    char line[160];
    std::snprintf(line, sizeof line, "%-12s %-9s %7zu %11zu  ", name.c_str(),
                  std::string(state_name(state)).c_str(), judged, skipped);
    text += line;
    if (worst.check) text += share_of_bound(worst.check->bound_used) + "  " + one_line(worst.check->tensor);
    text += "\n";
  }
  return text;
}

std::string summary_text(const Run& run) {
  std::array<std::size_t, 8> count{};
  for (const auto& c : run.cases) ++count[static_cast<std::size_t>(c.state)];
  const auto of = [&](State state) { return count[static_cast<std::size_t>(state)]; };
  std::string text = std::to_string(run.listed) + " listed  " + std::to_string(of(State::pass)) + " pass  " +
                     std::to_string(of(State::fail)) + " fail  " + std::to_string(of(State::skip)) + " skip";
  constexpr std::pair<State, const char*> kRare[] = {{State::invalid, "invalid"},
                                                     {State::untrusted, "untrusted"},
                                                     {State::waived, "waived"},
                                                     {State::error, "error"},
                                                     {State::timeout, "timeout"}};
  for (const auto& [state, word] : kRare)
    if (of(state)) text += "  " + std::to_string(of(state)) + " " + word;
  if (run.cases.size() != run.listed)
    text +=
        "  (" + std::to_string(run.cases.size()) + " of " + std::to_string(run.listed) + " have a result)";
  if (const Worst worst = worst_of(run.cases, ""); worst.check) {
    text += "  worst bound used " + share_of_bound(worst.check->bound_used) + " (" + worst.check->check +
            " " + one_line(worst.check->tensor);
    if (const auto mesh = option_of(worst.result->case_line, "mesh"); !mesh.empty()) text += ", " + mesh;
    text += ")";
  }
  char seconds[32];
  std::snprintf(seconds, sizeof seconds, "  %.1f s", run.seconds);
  return text + seconds;
}

}  // namespace meshparity::reports

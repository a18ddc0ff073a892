// What a terminal and a log get: one greppable line per verdict, its detail indented under it, the line that
// re-runs it last. The format of the failing block is fixed by golden text in console_test.cpp.
#include <algorithm>
#include <array>
#include <cmath>
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

}  // namespace

std::string failing_block(const CaseResult& result, const CheckResult& check) {
  std::string head = std::string(state_name(check.state)) + " " + result.id + " " + case_words(result) +
                     " check=" + check.check + " tensor=" + one_line(check.tensor);
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
  for (std::size_t i = 0; i < bad.size() && i < most; ++i) text += failing_block(result, *bad[i]);
  if (bad.size() > most) {
    text += labelled("more", plural(bad.size() - most, "tensor") +
                                 " of this case not shown; all: " + rerun_line(result, "", ""));
  }
  if (!bad.empty()) return text;
  text = std::string(state_name(result.state)) + " " + result.id + " " + case_words(result);
  if (!result.reason.empty()) text += "  " + one_line(result.reason);
  if (!is_bad(result.state)) {
    const Worst worst = worst_of({&result, 1}, "");
    if (worst.check && result.reason.empty())
      text += "  " + plural(result.checks.size(), "tensor") + ", worst bound used " +
              share_of_bound(worst.check->bound_used) + " (" + worst.check->check + " " +
              one_line(worst.check->tensor) + ")";
    return text + "\n";
  }
  return text + "\n" + labelled("rerun", rerun_line(result, "", ""));
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

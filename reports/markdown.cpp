// Markdown for a pull request or a job summary: counts, the worst share of a bound per check, a matrix of
// meshes against models, why cases were skipped, and the first failing blocks.
#include <array>
#include <map>
#include <set>

#include "reports/report.h"
#include "reports/words.h"

namespace meshparity::reports {
namespace {

constexpr std::size_t kMostBlocks = 20;

// A table cell on one line whose bars and backticks do not end it.
std::string cell(std::string_view text) {
  std::string out;
  for (char c : one_line(text)) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::string code(std::string_view text) {
  const std::string inner = cell(text);
  return inner.empty()                          ? ""
         : inner.find('`') == std::string::npos ? "`" + inner + "`"
                                                : "`` " + inner + " ``";
}

std::string counts_table(const Run& run) {
  std::array<std::size_t, 8> count{};
  for (const auto& c : run.cases) ++count[static_cast<std::size_t>(c.state)];
  std::string head = "| listed |", rule = "|---|", row = "| " + std::to_string(run.listed) + " |";
  for (std::size_t i = 0; i < count.size(); ++i) {
    const State state = static_cast<State>(i);
    if (!count[i] && state != State::pass && state != State::fail) continue;
    head += " " + std::string(state_name(state)) + " |", rule += "---|",
        row += " " + std::to_string(count[i]) + " |";
  }
  return head + "\n" + rule + "\n" + row + "\n";
}

std::string bounds_table(const Run& run) {
  std::string text = "| check | verdicts | worst bound used | tensor | case |\n|---|---|---|---|---|\n";
  for (const auto& name : checks_of(run.cases)) {
    std::size_t verdicts = 0;
    for (const auto& c : run.cases)
      for (const auto& check : c.checks) verdicts += check.check == name;
    const Worst worst = worst_of(run.cases, name);
    if (!worst.check) continue;  // nothing of this check was judged
    text += "| " + cell(name) + " | " + std::to_string(verdicts) + " | " +
            share_of_bound(worst.check->bound_used) + " | " + code(worst.check->tensor) + " | " +
            code(worst.result->case_line) + " |\n";
  }
  return text;
}

// One row per mesh in first-seen order, one column per model; a cell counts cases by state.
std::string matrix(const Run& run) {
  std::vector<std::string> meshes, models;
  std::map<std::pair<std::string, std::string>, std::map<State, std::size_t>> cells;
  std::set<std::string> seen;
  for (const auto& c : run.cases) {
    const std::string mesh = option_of(c.case_line, "mesh"), model = option_of(c.case_line, "model");
    if (mesh.empty()) continue;
    std::string column = model.empty() ? option_of(c.case_line, "golden") : model;
    if (column.rfind("shape:", 0) == 0) column = "shape:...";  // a random run has one of each
    if (seen.insert("mesh " + mesh).second) meshes.push_back(mesh);
    if (seen.insert("model " + column).second) models.push_back(column);
    ++cells[{mesh, column}][c.state];
  }
  if (meshes.empty()) return "";
  std::string text = "\n### Meshes\n\n| mesh |";
  for (const auto& model : models) text += " " + cell(model) + " |";
  text += "\n|---|";
  for (std::size_t i = 0; i < models.size(); ++i) text += "---|";
  for (const auto& mesh : meshes) {
    text += "\n| " + cell(mesh) + " |";
    for (const auto& model : models) {
      std::string content;
      for (const auto& [state, n] : cells[{mesh, model}])
        content += (content.empty() ? "" : ", ") + std::string(state_name(state)) + " " + std::to_string(n);
      text += " " + (content.empty() ? "-" : content) + " |";
    }
  }
  return text + "\n";
}

std::string skip_reasons(const Run& run) {
  std::map<std::string, std::size_t> reasons;
  for (const auto& c : run.cases)
    if (c.state == State::skip) ++reasons[c.reason];
  if (reasons.empty()) return "";
  std::string text = "\n### Skipped\n\n| cases | reason |\n|---|---|\n";
  for (const auto& [reason, n] : reasons) text += "| " + std::to_string(n) + " | " + cell(reason) + " |\n";
  return text;
}

std::string failures(const Run& run) {
  std::string text;
  std::size_t shown = 0, bad = 0;
  for (const auto& c : run.cases) {
    if (!is_bad(c.state)) continue;
    if (++bad > kMostBlocks) continue;
    ++shown;
    text += case_text(c, 3);
  }
  if (!bad) return "";
  text = "\n### Not passed\n\n````text\n" + text + "````\n";
  if (bad > shown) text += "\n" + std::to_string(bad - shown) + " more cases are not shown.\n";
  return text;
}

}  // namespace

std::string to_markdown(const Run& run) {
  std::string text = "## meshparity " + cell(run.version) + "\n\n";
  if (!run.command.empty()) text += code(run.command) + "\n\n";
  text += cell(summary_text(run)) + "\n\n" + counts_table(run);
  if (!checks_of(run.cases).empty()) text += "\n### Bounds\n\n" + bounds_table(run);
  text += matrix(run) + skip_reasons(run) + failures(run);
  std::string versions;
  for (const auto& v : run.versions) versions += (versions.empty() ? "" : ", ") + cell(v);
  return text + (versions.empty() ? "" : "\n" + versions + "\n");
}

}  // namespace meshparity::reports

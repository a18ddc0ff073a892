// The HTML report of a gate's run.
#include <algorithm>
#include <map>

#include "harness/types/mesh.h"
#include "reports/html.h"
#include "reports/html_page.h"
#include "reports/words.h"

namespace meshparity::reports {
namespace {

constexpr std::size_t kMostBad = 100, kMostMeshes = 3000;

std::string name_of_model(const CaseResult& c) {
  const std::string model = option_of(c.case_line, "model");
  return model.empty() ? option_of(c.case_line, "golden") : model;
}

// Every check: how many tensors in which state, and the verdict that used most of its bound.
std::string checks_table(const Run& run) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> classes;
  for (const std::string& check : checks_of(run.cases)) {
    std::size_t judged = 0, bad = 0;
    for (const auto& c : run.cases)
      for (const auto& r : c.checks)
        if (r.check == check && r.state != State::skip) ++judged, bad += is_bad(r.state);
    const Worst worst = worst_of(run.cases, check);
    rows.push_back({check, std::to_string(judged), std::to_string(bad),
                    worst.check ? share_of_bound(worst.check->bound_used) : "-",
                    worst.check ? worst.check->tensor + "  " + case_words(*worst.result) : "-"});
    classes.push_back(bad ? "bad" : "");
  }
  return html_table("Tensors judged, and the one that used most of its bound",
                    {"check", "judged", "not passed", "worst share of its bound", "where"}, rows, classes);
}

struct MeshCell {
  std::size_t cases = 0, bad = 0, skipped = 0;
  std::string text() const {
    if (cases == 0) return "-";
    if (bad > 0) return std::to_string(bad) + " of " + std::to_string(cases) + " not passed";
    return skipped == cases ? "skipped" : "pass " + std::to_string(cases - skipped);
  }
};

std::string mesh_table(const Run& run) {
  std::vector<std::string> models;
  std::map<std::pair<int, std::string>, std::map<std::string, MeshCell>> meshes;  // by world, then name
  for (const auto& c : run.cases) {
    const std::string mesh = option_of(c.case_line, "mesh"), model = name_of_model(c);
    if (mesh.empty()) continue;
    if (std::find(models.begin(), models.end(), model) == models.end()) models.push_back(model);
    MeshCell& cell = meshes[{Mesh::parse(mesh).world(), mesh}][model];
    ++cell.cases, cell.bad += is_bad(c.state), cell.skipped += c.state == State::skip;
  }
  if (meshes.empty()) return "";
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> classes;
  for (const auto& [key, cells] : meshes) {
    if (rows.size() == kMostMeshes) break;
    std::vector<std::string> row = {key.second, std::to_string(key.first)};
    bool bad = false;
    for (const std::string& model : models) {
      const auto found = cells.find(model);
      row.push_back(found == cells.end() ? "-" : found->second.text());
      bad |= found != cells.end() && found->second.bad > 0;
    }
    rows.push_back(std::move(row)), classes.push_back(bad ? "bad" : "");
  }
  std::vector<std::string> columns = {"mesh", "ranks"};
  columns.insert(columns.end(), models.begin(), models.end());
  return "<h2>Meshes</h2>\n" + html_table(meshes.size() > kMostMeshes
                                              ? "The first " + std::to_string(kMostMeshes) + " of " +
                                                    std::to_string(meshes.size()) + " meshes"
                                              : "Cases of every mesh and model",
                                          columns, rows, classes);
}

// What did not pass, as the console prints it, each with the line that re-runs it.
std::string bad_cases(const Run& run) {
  std::string text;
  std::size_t shown = 0, all = 0;
  for (const auto& c : run.cases) {
    if (!is_bad(c.state) || ++all > kMostBad) continue;
    ++shown;
    // case_text has line ends that matter here; every line is escaped by itself.
    std::string block;
    std::string line;
    for (const char letter : case_text(c, 3) + "\n") {
      if (letter != '\n') {
        line += letter;
        continue;
      }
      block += html_safe(line) + "\n", line.clear();
    }
    while (!block.empty() && block.back() == '\n') block.pop_back();
    text += "<pre>" + block + "</pre>\n";
  }
  if (all == 0) return "";
  return "<h2>Not passed</h2>\n" + text +
         (all > shown
              ? "<p class=\"muted\">" + std::to_string(all - shown) + " more are in the JSON report.</p>\n"
              : "");
}

}  // namespace

std::string to_html(const Run& run) {
  std::map<State, std::size_t> counts;
  for (const auto& c : run.cases) ++counts[c.state];
  const int code = exit_code(run.cases);
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> classes;
  for (const auto& [state, count] : counts)
    rows.push_back({std::string(state_name(state)), std::to_string(count)}),
        classes.push_back(is_bad(state) ? "bad" : "");
  std::string body = html_verdict(code == 0, code == 0 ? "PASS" : "NOT PASSED", summary_text(run));
  std::string made_by = run.command;
  if (!run.version.empty()) made_by += (made_by.empty() ? "meshparity " : "; meshparity ") + run.version;
  for (const auto& version : run.versions) made_by += ", " + version;
  if (!made_by.empty()) body += "<p class=\"muted\">" + html_safe(made_by) + "</p>\n";
  body += html_table(std::to_string(run.cases.size()) + " of " + std::to_string(run.listed) + " listed cases",
                     {"state", "cases"}, rows, classes);
  body += bad_cases(run) + "<h2>Checks</h2>\n" + checks_table(run) + mesh_table(run);
  return html_page(code == 0 ? "meshparity: all pass" : "meshparity: not passed", body);
}

}  // namespace meshparity::reports

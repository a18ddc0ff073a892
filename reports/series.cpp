#include "reports/series.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "reports/words.h"

namespace meshparity::reports {
namespace {

using SeriesJson = nlohmann::ordered_json;

constexpr std::size_t kMostRows = 48, kEnds = 8, kBesideBad = 2;

std::string series_number(double value, const char* format = "%.3g") {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string series_padded(std::string text, std::size_t width) {
  if (text.size() < width) text.append(width - text.size(), ' ');
  return text;
}

std::vector<std::string> series_columns() {
  return {"step", "tokens", "mean |d|", "median", "K3", "worst 0.1 %", "level", "few sequences", ""};
}

std::vector<std::string> series_row(const SeriesStep& step) {
  const std::string few =
      step.outlying == 0 ? "-" : std::to_string(step.outlying) + ": x " + series_number(step.inflation);
  return {std::to_string(step.number),
          std::to_string(step.tokens),
          series_number(step.mean_abs, "%.4g"),
          series_number(step.median_abs),
          series_number(step.k3),
          series_number(100 * step.share_of_worst) + " %",
          series_number(step.level),
          few,
          step.bad ? "bad" : ""};
}

// Which rows of a long table are worth the lines: both ends and the surroundings of where good meets bad.
std::vector<bool> shown_rows(const std::vector<SeriesStep>& steps) {
  const std::size_t n = steps.size();
  std::vector<bool> shown(n, n <= kMostRows);
  if (n <= kMostRows) return shown;
  std::size_t changes = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (i < kEnds || i + kEnds >= n) shown[i] = true;
    const bool change = i > 0 && steps[i].bad != steps[i - 1].bad;
    if (!change || ++changes > 6) continue;
    for (std::size_t j = i - std::min(i, kBesideBad); j < std::min(n, i + kBesideBad + 1); ++j)
      shown[j] = true;
  }
  return shown;
}

std::string judged_sentence(const SeriesResult& r) {
  if (r.judged < 0) return "";
  const auto at = static_cast<std::size_t>(r.judged);
  return "step " + std::to_string(r.steps[at].number) + " by itself: " + one_line(r.judged_verdict.sentence) +
         " (confidence " + series_number(r.judged_verdict.confidence, "%.2f") + ")";
}

std::string series_span(const SeriesResult& r) {
  std::uint64_t tokens = 0;
  for (const SeriesStep& step : r.steps) tokens += step.tokens;
  return std::to_string(r.steps.size()) + " steps, " + std::to_string(r.steps.front().number) + " to " +
         std::to_string(r.steps.back().number) + ", " + std::to_string(tokens) + " tokens, " +
         one_line(r.steps.front().name) + " to " + one_line(r.steps.back().name);
}

std::string markdown_safe(std::string_view text) {
  std::string out;
  for (const char c : one_line(text)) {
    if (c == '|' || c == '<' || c == '*' || c == '`') out += '\\';
    out += c;
  }
  return out;
}

SeriesJson series_real(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

SeriesJson verdict_json(const DriftVerdict& v) {
  return {{"cause", v.cause},       {"fault", v.fault},       {"confidence", v.confidence},
          {"sentence", v.sentence}, {"evidence", v.evidence}, {"next", v.next}};
}

}  // namespace

std::string series_headline(const SeriesResult& r) {
  return one_line(r.verdict.sentence) + " (confidence " + series_number(r.verdict.confidence, "%.2f") + ")";
}

std::string series_console(const SeriesResult& r) {
  std::string text = series_headline(r) + "\n";
  const auto line = [&](const std::string& name, const std::string& value) {
    text += "  " + series_padded(name, 10) + value + "\n";
  };
  line("series", series_span(r));
  for (const std::string& notice : r.notices) line("noticed", one_line(notice));
  for (const std::string& evidence : r.verdict.evidence) line("evidence", one_line(evidence));
  line("next", one_line(r.verdict.next));
  if (r.judged >= 0) line("judged", judged_sentence(r));
  const std::vector<std::size_t> widths = {9, 11, 11, 10, 11, 13, 8, 15, 0};
  text += "\n  ";
  for (std::size_t i = 0; i < widths.size(); ++i) text += series_padded(series_columns()[i], widths[i]);
  text += "\n";
  const std::vector<bool> shown = shown_rows(r.steps);
  std::size_t hidden = 0;
  for (std::size_t i = 0; i < r.steps.size(); ++i) {
    if (!shown[i]) {
      ++hidden;
      continue;
    }
    if (hidden > 0) text += "  ... " + std::to_string(hidden) + " more\n";
    hidden = 0;
    text += "  ";
    const auto row = series_row(r.steps[i]);
    for (std::size_t j = 0; j < row.size(); ++j) text += series_padded(row[j], widths[j]);
    while (text.back() == ' ') text.pop_back();
    text += "\n";
  }
  text += "\n  level: |d| of the typical block of 256 tokens at equal probabilities, 1 = the median step\n";
  return text;
}

std::string series_json(const SeriesResult& r) {
  SeriesJson j = {{"verdict", verdict_json(r.verdict)}};
  j["first_bad"] =
      r.first_bad < 0 ? SeriesJson() : SeriesJson(r.steps[static_cast<std::size_t>(r.first_bad)].number);
  j["judged"] = {{"step", r.steps[static_cast<std::size_t>(r.judged)].number},
                 {"verdict", verdict_json(r.judged_verdict)}};
  j["notices"] = r.notices;
  j["tests"] = SeriesJson::array();
  for (const DriftTest& t : r.tests)
    j["tests"].push_back({{"test", t.name},
                          {"unit", t.unit},
                          {"ran", t.ran},
                          {"fired", t.fired},
                          {"effect", series_real(t.effect)},
                          {"effect_bound", t.effect_bound},
                          {"p", series_real(t.p)},
                          {"p_bound", t.p_bound},
                          {"detail", t.detail}});
  j["steps"] = SeriesJson::array();
  for (const SeriesStep& s : r.steps)
    j["steps"].push_back({{"step", s.number},
                          {"name", s.name},
                          {"tokens", s.tokens},
                          {"samples", s.samples},
                          {"mean_abs", series_real(s.mean_abs)},
                          {"median_abs", series_real(s.median_abs)},
                          {"max_abs", series_real(s.max_abs)},
                          {"k3", series_real(s.k3)},
                          {"share_of_worst", series_real(s.share_of_worst)},
                          {"level", series_real(s.level)},
                          {"level_error", series_real(s.level_error)},
                          {"outlying", s.outlying},
                          {"outlying_name", s.outlying_name},
                          {"inflation", series_real(s.inflation)},
                          {"bad", s.bad}});
  j["seconds"] = r.seconds;
  // A file name need not be UTF-8.
  return SeriesJson{{"schema", 1}, {"series", std::move(j)}}.dump(1, ' ', false,
                                                                  SeriesJson::error_handler_t::replace) +
         "\n";
}

std::string series_markdown(const SeriesResult& r) {
  std::string text = "### Train against rollout over steps: " + r.verdict.cause + "\n\n" +
                     markdown_safe(series_headline(r)) + "\n\n| | |\n|---|---|\n| series | " +
                     markdown_safe(series_span(r)) + " |\n";
  for (const std::string& notice : r.notices) text += "| noticed | " + markdown_safe(notice) + " |\n";
  for (const std::string& line : r.verdict.evidence) text += "| evidence | " + markdown_safe(line) + " |\n";
  text += "| next | " + markdown_safe(r.verdict.next) + " |\n";
  if (r.judged >= 0) text += "| judged | " + markdown_safe(judged_sentence(r)) + " |\n";
  text += "\n";
  for (const std::string& column : series_columns()) text += "| " + markdown_safe(column) + " ";
  text += "|\n|---|---|---|---|---|---|---|---|---|\n";
  for (const SeriesStep& step : r.steps) {
    for (const std::string& cell : series_row(step)) text += "| " + markdown_safe(cell) + " ";
    text += "|\n";
  }
  return text;
}

}  // namespace meshparity::reports

// The HTML report of drift --series.
#include <algorithm>
#include <cmath>

#include "reports/drift_words.h"
#include "reports/html.h"
#include "reports/html_chart.h"
#include "reports/html_page.h"
#include "reports/series.h"

namespace meshparity::reports {
namespace {

// One value per step, the bad ones in another colour and larger, the first of them named.
std::string steps_figure(const SeriesResult& r, const std::string& title, const std::string& description,
                         double SeriesStep::*what, const std::string& label, bool errors) {
  std::vector<double> values;
  for (const SeriesStep& step : r.steps) {
    const double value = step.*what;
    values.push_back(errors ? value * std::exp(step.level_error) : value);
    values.push_back(value);
  }
  const auto first = static_cast<double>(r.steps.front().number),
             last = static_cast<double>(r.steps.back().number);
  const double room = 0.02 * (last - first);
  Chart chart(title, description, {first - room, last + room, false, "step"}, axis_for(values, label, 20),
              300);
  if (r.first_bad >= 0) {
    const auto bad = static_cast<double>(r.steps[static_cast<std::size_t>(r.first_bad)].number);
    chart.vertical(
        bad, "bad",
        "first bad step: " + std::to_string(r.steps[static_cast<std::size_t>(r.first_bad)].number));
  }
  std::vector<std::pair<double, double>> points;
  for (const SeriesStep& step : r.steps) points.emplace_back(static_cast<double>(step.number), step.*what);
  chart.line(points, "muted", 1);
  for (const SeriesStep& step : r.steps) {
    const double value = step.*what;
    const auto number = static_cast<double>(step.number);
    if (errors && step.level_error > 0)
      chart.error_bar(number, value * std::exp(-step.level_error), value * std::exp(step.level_error),
                      step.bad ? "bad" : "a");
    chart.dot(number, value, step.bad ? 4.5 : 3.2, step.bad ? "bad" : "a",
              "step " + std::to_string(step.number) + ": " + drift_number(value, "%.4g") +
                  (step.bad ? ", bad" : ""));
  }
  chart.key({{"a", "step"}, {"bad", "bad step (larger)"}});
  return chart.text();
}

std::string steps_table(const SeriesResult& r) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> classes;
  for (const SeriesStep& s : r.steps) {
    rows.push_back({std::to_string(s.number) + (s.bad ? " (bad)" : ""), std::to_string(s.tokens),
                    drift_number(s.mean_abs), drift_number(s.median_abs, "%.3g"), drift_number(s.k3, "%.3g"),
                    drift_number(100 * s.share_of_worst, "%.3g") + " %", drift_number(s.level, "%.3g"),
                    s.outlying == 0 ? "-"
                                    : std::to_string(s.outlying) + " make it " +
                                          drift_number(s.inflation, "%.3g") + " times"});
    classes.push_back(s.bad ? "bad" : "");
  }
  return html_table(
      "level: |d| of the typical block of 256 tokens at equal probabilities, 1 = the median step",
      {"step", "tokens", "mean |d|", "median |d|", "K3", "worst 0.1 % carry", "level", "few sequences"}, rows,
      classes);
}

}  // namespace

std::string series_html(const SeriesResult& r) {
  std::string body = html_verdict(!r.verdict.fault, r.verdict.fault ? "CHANGED" : "OK", series_headline(r));
  if (r.judged >= 0)
    body += html_verdict(!r.judged_verdict.fault, r.judged_verdict.fault ? "FAULT" : "OK",
                         "Step " + std::to_string(r.steps[static_cast<std::size_t>(r.judged)].number) +
                             " by itself: " + r.judged_verdict.sentence);
  body += "<ul>\n";
  for (const std::string& line : r.notices)
    body += "<li><strong>Noticed:</strong> " + html_safe(line) + "</li>\n";
  for (const std::string& line : r.verdict.evidence) body += "<li>" + html_safe(line) + "</li>\n";
  body += "<li><strong>Next:</strong> " + html_safe(r.verdict.next) + "</li>\n</ul>\n";
  body +=
      "<h2>Over the steps</h2>\n" +
      steps_figure(r, "Level by step",
                   "Level of every step: |d| of its typical block at equal probabilities, 1 = the median "
                   "step; bars: one standard error.",
                   &SeriesStep::level, "level", true) +
      steps_figure(
          r, "Mean |d| by step",
          "Mean of |d| over all tokens of the step, in nats; it also moves with the tokens' probabilities.",
          &SeriesStep::mean_abs, "mean |d| in nats", false) +
      steps_figure(r, "K3 by step", "K3, an estimate of KL(rollout, train) from the rollout's tokens.",
                   &SeriesStep::k3, "K3", false);
  body += "<h2>Steps</h2>\n" + steps_table(r);
  return html_page("meshparity drift --series: " + r.verdict.cause, body);
}

}  // namespace meshparity::reports

// The HTML report of drift.
#include <algorithm>
#include <cmath>

#include "reports/drift_words.h"
#include "reports/html.h"
#include "reports/html_chart.h"
#include "reports/html_page.h"

namespace meshparity::reports {
namespace {

using Points = std::vector<std::pair<double, double>>;

constexpr double kLeastPixels = 6;  // edges closer together than this are not drawn

std::string heading(const std::string& text) {
  return "<h2>" + html_safe(text) + "</h2>\n";
}

// A bin's middle; the bin of one place is drawn at that place.
double middle_of(const DriftPlaceBin& bin) {
  return static_cast<double>(bin.begin + bin.end - 1) / 2;
}

Points curve(const std::vector<DriftPlaceBin>& bins, double DriftPlaceBin::*what) {
  Points points;
  for (const DriftPlaceBin& bin : bins) points.emplace_back(middle_of(bin), bin.*what);
  return points;
}

// The axis of |d|: of means and high values (medians lie below and may be 0).
Axis size_axis(const std::vector<DriftPlaceBin>& bins, bool high) {
  std::vector<double> values;
  for (const DriftPlaceBin& bin : bins) {
    values.push_back(bin.mean_abs);
    if (high) values.push_back(bin.high_abs);
  }
  return axis_for(values, "|d| in nats");
}

// Bars are read from 0; logarithmic only where the largest would hide all others.
Axis bar_axis(const std::vector<DriftPlaceBin>& bins) {
  std::vector<double> values;
  for (const DriftPlaceBin& bin : bins) values.push_back(bin.high_abs);
  std::sort(values.begin(), values.end());
  return axis_for({values.back(), values[values.size() / 2] / 10}, "|d| in nats", 300);
}

Axis place_axis(const std::vector<DriftPlaceBin>& bins, const std::string& label) {
  return {static_cast<double>(bins.front().begin),
          std::max(static_cast<double>(bins.back().end), static_cast<double>(bins.front().begin + 1)), false,
          label};
}

std::string position_figure(const DriftPlots& plots) {
  const auto& bins = plots.positions;
  Chart chart("|d| by position in the document",
              "By the token's index in its document, over all documents: mean, median and 95th percentile of "
              "|d|. Thin "
              "vertical lines: edges of chunks of 64, where they are apart enough to be seen.",
              place_axis(bins, "index in the document"), size_axis(bins, true));
  if (chart.pixels(0, 64) >= kLeastPixels)
    for (std::int64_t edge = 64; edge < bins.back().end; edge += 64)
      chart.vertical(static_cast<double>(edge), "chunk");
  Points foot;
  for (const DriftPlaceBin& bin : bins) foot.emplace_back(middle_of(bin), bin.median_abs);
  chart.band(foot, curve(bins, &DriftPlaceBin::high_abs), "a");
  chart.line(curve(bins, &DriftPlaceBin::median_abs), "b");
  chart.line(curve(bins, &DriftPlaceBin::mean_abs), "a");
  if (bins.size() <= 24)
    for (const DriftPlaceBin& bin : bins) chart.dot(middle_of(bin), bin.mean_abs, 3, "a");
  chart.key({{"a", "mean (shaded: median to 95th percentile)"}, {"b", "median"}});
  return chart.text();
}

std::string stretch_figure(const DriftPlots& plots) {
  const auto& bins = plots.stretch;
  const bool single = bins.back().end == static_cast<std::int64_t>(bins.size());
  Chart chart("|d| token after token around the worst one",
              std::string("Consecutive compared tokens around the one with the largest |d|") +
                  (single ? "" : "; every place shows the largest of a few") +
                  ". Dashed: where a document begins; thin: chunks of 64 within it; red: the worst token.",
              place_axis(bins, "tokens"), bar_axis(bins), 260);
  double last = -1e9;
  for (const std::int64_t edge : plots.stretch_chunks)
    if (chart.pixels(last, static_cast<double>(edge)) >= kLeastPixels)
      chart.vertical(static_cast<double>(edge), "chunk"), last = static_cast<double>(edge);
  last = -1e9;
  for (const std::int64_t edge : plots.stretch_documents)
    if (edge > 0 && chart.pixels(last, static_cast<double>(edge)) >= kLeastPixels)
      chart.vertical(static_cast<double>(edge), "document"), last = static_cast<double>(edge);
  for (const DriftPlaceBin& bin : bins) {
    const bool worst = plots.stretch_worst >= bin.begin && plots.stretch_worst < bin.end;
    chart.bar(static_cast<double>(bin.begin), static_cast<double>(bin.end), bin.high_abs, worst ? "bad" : "a",
              "");
  }
  return chart.text();
}

std::string chunk_figure(const DriftPlots& plots) {
  Chart chart("|d| by place in a chunk of 64",
              "Mean of |d| by the token's place in its chunk of 64: a delta rule whose chunks "
              "do not meet shows at the left end.",
              {0, 64, false, "place in the chunk"}, size_axis(plots.chunk, false), 200);
  for (const DriftPlaceBin& bin : plots.chunk)
    chart.bar(static_cast<double>(bin.begin), static_cast<double>(bin.end), bin.mean_abs, "a",
              std::to_string(bin.begin) + ": " + drift_number(bin.mean_abs, "%.3g") + " over " +
                  std::to_string(bin.tokens) + " tokens");
  return chart.text();
}

std::string histogram_figure(const DriftPlots& plots) {
  const double limit = plots.histogram_limit > 0 ? plots.histogram_limit : 1;
  double most = static_cast<double>(std::max(plots.below, plots.above));
  for (const auto count : plots.histogram) most = std::max(most, static_cast<double>(count));
  Axis y{0.5, std::max(2.0, most * 1.5), true, "tokens, logarithmic"};
  // Bars beyond the limits stand outside, one each.
  const double width = 2 * limit / kHistogramBins, edge = limit + 4 * width;
  Chart chart("Histogram of d",
              "How many tokens differ by how much; d = train - rollout in nats. Symmetric around 0 unless "
              "one side is "
              "higher. Orange: all tokens beyond the ends.",
              {-edge, edge, false, "d in nats"}, y);
  chart.vertical(0, "chunk");
  for (std::size_t i = 0; i < plots.histogram.size(); ++i)
    if (plots.histogram[i] > 0) {
      const double from = -limit + width * static_cast<double>(i);
      chart.bar(from, from + width, static_cast<double>(plots.histogram[i]), "a",
                drift_number(from, "%.3g") + " to " + drift_number(from + width, "%.3g") + ": " +
                    std::to_string(plots.histogram[i]));
    }
  if (plots.below > 0)
    chart.bar(-edge, -edge + 2 * width, static_cast<double>(plots.below), "b",
              "below " + drift_number(-limit, "%.3g") + ": " + std::to_string(plots.below));
  if (plots.above > 0)
    chart.bar(edge - 2 * width, edge, static_cast<double>(plots.above), "b",
              "above " + drift_number(limit, "%.3g") + ": " + std::to_string(plots.above));
  return chart.text();
}

std::string scatter_figure(const DriftPlots& plots) {
  const double low = plots.scatter_low;
  const bool points = !plots.points.empty();
  Chart chart("Train against rollout",
              std::string("Logprobs of the same tokens on both sides, in nats; dashed: equal.") +
                  (points ? "" : " Darker (in the dark scheme lighter): more tokens, by factors of ten."),
              {low, 0, false, "rollout logprob"}, {low, 0, false, "train logprob"}, 480, 520);
  if (points)
    for (const auto& [rollout, train] : plots.points)
      chart.dot(static_cast<double>(rollout), static_cast<double>(train), plots.points.size() < 100 ? 3.5 : 2,
                "a");
  const double size = -low / kScatterSide;
  for (int colour = 1; colour <= 6 && !points; ++colour) {
    Points corners;
    for (std::size_t row = 0; row < kScatterSide; ++row)
      for (std::size_t column = 0; column < kScatterSide; ++column) {
        const std::uint32_t count = plots.scatter[row * kScatterSide + column];
        const int shade =
            count == 0 ? 0 : std::min(6, 1 + static_cast<int>(std::log10(static_cast<double>(count))));
        if (shade == colour)
          corners.emplace_back(low + size * static_cast<double>(column),
                               low + size * static_cast<double>(row));
      }
    chart.cells(corners, size, size, "s" + std::to_string(colour));
  }
  chart.diagonal();
  return chart.text();
}

std::string worst_table(const DriftResult& r) {
  std::vector<std::vector<std::string>> rows;
  for (const DriftToken& t : r.worst)
    rows.push_back({t.sample, std::to_string(t.slot), t.id < 0 ? "-" : std::to_string(t.id),
                    drift_number(t.train, "%.6g"), drift_number(t.rollout, "%.6g"),
                    drift_number(t.train - t.rollout, "%.3g")});
  return html_table("The tokens that differ most", {"sample", "index", "token id", "train", "rollout", "d"},
                    rows);
}

std::string tests_table(const DriftResult& r) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> classes;
  for (const DriftTest& t : r.tests) {
    rows.push_back({t.name,
                    !t.ran    ? "did not run"
                    : t.fired ? "fired"
                              : "silent",
                    drift_number(t.effect, "%.3g"), drift_number(t.effect_bound, "%.3g"),
                    drift_number(t.p, "%.1g"), t.unit + (t.detail.empty() ? "" : "; " + t.detail)});
    classes.push_back(t.fired ? "bad" : "");
  }
  return "<details><summary>All tests of structure</summary>\n" +
         html_table("An effect and a probability must both pass their bounds",
                    {"test", "", "effect", "bound", "p", "what"}, rows, classes) +
         "</details>\n";
}

std::string facts(const DriftResult& r) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> classes;
  const auto row = [&](const std::string& name, const std::string& value, bool bad = false) {
    rows.push_back({name, value}), classes.push_back(bad ? "bad" : "");
  };
  for (const DriftInput& input : r.inputs) {
    row(input.side, input.name + " (" + input.format + ")");
    for (const std::string& note : input.notes) row("", note);
  }
  row("compared", drift_samples(r));
  for (const DriftCheck& check : r.checks)
    row(check.fault ? "fault" : "noticed", drift_check(check), check.fault);
  for (const auto& [name, value] : drift_rows(r)) row(name, value);
  return html_table("d = train - rollout, in nats", {}, rows, classes);
}

std::string by_table(const DriftResult& r) {
  std::string text;
  for (const auto& [name, bins] : r.tables) {
    if (bins.size() < 2) continue;
    std::vector<std::vector<std::string>> rows;
    for (const DriftBin& b : bins)
      rows.push_back({b.label, drift_number(b.mean_abs, "%.3g"), drift_number(b.median_abs, "%.3g"),
                      std::to_string(b.tokens)});
    text += html_table("|d| by " + name, {name, "mean", "median", "tokens"}, rows);
  }
  return "<details><summary>|d| by probability, position, chunk and routing</summary>\n" + text +
         "</details>\n";
}

}  // namespace

std::string drift_html(const DriftResult& r) {
  std::string body = html_verdict(!r.verdict.fault, r.verdict.fault ? "FAULT" : "OK", drift_headline(r));
  if (r.noise.given)
    body += html_verdict(!r.noise.above, r.noise.above ? "ABOVE" : "WITHIN", r.noise.sentence);
  body += "<ul>\n";
  for (const std::string& line : r.verdict.evidence) body += "<li>" + html_safe(line) + "</li>\n";
  body += "<li><strong>Next:</strong> " + html_safe(r.verdict.next) + "</li>\n</ul>\n";
  body += facts(r);
  if (r.plots.tokens > 0) {
    body += heading("Where |d| is large") + position_figure(r.plots) + stretch_figure(r.plots) +
            chunk_figure(r.plots);
    body += heading("How large") + histogram_figure(r.plots) + scatter_figure(r.plots);
    if (r.plots.tokens < r.metrics.tokens)
      body += "<p class=\"muted\">Drawn from " + std::to_string(r.plots.tokens) + " of " +
              std::to_string(r.metrics.tokens) + " tokens: whole samples, drawn evenly.</p>\n";
  }
  body += heading("Worst tokens") + worst_table(r) + by_table(r) + tests_table(r);
  return html_page("meshparity drift: " + r.verdict.cause, body);
}

}  // namespace meshparity::reports

// The HTML reports: self-contained, bounded, with what matters first, whatever the data and the names.
#include "reports/html.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "reports/fixture.h"
#include "reports/html_chart.h"
#include "reports/html_page.h"

namespace meshparity::reports::html_test {

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size()))
    ++count;
  return count;
}

// Every element that is opened is closed in order (void elements and self-closed ones apart).
std::string unbalanced(const std::string& html) {
  std::vector<std::string> open;
  for (std::size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    if (html[at + 1] == '!') continue;
    const std::size_t end = html.find('>', at);
    if (end == std::string::npos) return "no end of a tag";
    if (html[end - 1] == '/') continue;
    const bool closing = html[at + 1] == '/';
    const std::size_t begin = at + 1 + closing, stop = html.find_first_of(" >\n", begin);
    const std::string name = html.substr(begin, stop - begin);
    if (name == "meta") continue;
    if (!closing) {
      open.push_back(name);
    } else if (open.empty() || open.back() != name) {
      return "</" + name + "> closes " + (open.empty() ? "nothing" : open.back());
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : "<" + open.back() + "> is open";
}

void check_self_contained(const std::string& html) {
  CHECK(html.rfind("<!doctype html>\n<html lang=\"en\">", 0) == 0);
  CHECK(html.find("default-src 'none'") != std::string::npos);
  for (const char* part : {"<script", "<link", "<img", "<iframe", "@import", "url(",
                           "http:", "https:", "src=", "href=", "onload", "\"nan", "\"inf", " nan", "Mnan"}) {
    INFO(part);
    CHECK(html.find(part) == std::string::npos);
  }
  CHECK(unbalanced(html).empty());
  CHECK(count_of(html, "<svg ") == count_of(html, "role=\"img\""));
  CHECK(count_of(html, "<svg ") <= count_of(html, "<title>"));
  CHECK(html.find("prefers-color-scheme:dark") != std::string::npos);
  CHECK(html.size() < 400'000);
}

DriftPlaceBin bin(std::int64_t begin, std::int64_t end, double mean) {
  return {begin, end, 10, mean, mean / 2, 3 * mean};
}

DriftResult drift_of(std::size_t bins, bool points) {
  DriftResult r;
  r.verdict = {
      "layout", true, 0.9, "Layout <b>mismatch</b>: \"one\" & 'two'", {"evidence <script>alert(1)</script>"},
      "next"};
  r.inputs.push_back({"both", "a&b<c>.jsonl", "JSON Lines", {"a note"}});
  r.metrics.tokens = points ? 5 : 10'000'000;
  r.worst.push_back({"sample \"x\" <i>", 3, 4, -1, -2});
  DriftPlots& p = r.plots;
  p.tokens = r.metrics.tokens;
  for (std::size_t i = 0; i < bins; ++i) {
    const auto at = static_cast<std::int64_t>(i);
    p.positions.push_back(bin(at * 3, at * 3 + 3, 0.01 + 0.001 * static_cast<double>(i % 7)));
    p.stretch.push_back(bin(at, at + 1, 0.01));
  }
  for (std::int64_t i = 0; i < 64; ++i) p.chunk.push_back(bin(i, i + 1, 0.01));
  p.stretch_documents = {0, 2}, p.stretch_chunks = {1}, p.stretch_worst = 1;
  p.histogram_limit = 0.1, p.histogram.assign(kHistogramBins, 1000), p.below = 3;
  p.scatter_low = -10;
  if (points)
    for (int i = 0; i < 5; ++i)
      p.points.emplace_back(-1.f - static_cast<float>(i), -1.1f - static_cast<float>(i));
  else
    for (std::size_t i = 0; i < kScatterSide * kScatterSide; ++i)
      p.scatter.push_back(static_cast<std::uint32_t>(1 + i * 7));
  return r;
}

TEST_CASE("a drift report of ten million tokens and of five is one bounded page without a network") {
  for (const bool few : {false, true}) {
    const std::string html = drift_html(drift_of(few ? 5 : kPlotBins, few));
    check_self_contained(html);
    CHECK(count_of(html, "<svg ") == 5);
    // The sentence comes before any figure, escaped.
    CHECK(html.find(
              "Layout &lt;b&gt;mismatch&lt;/b&gt;: &quot;one&quot; &amp; &#39;two&#39; (confidence 0.90)") <
          html.find("<svg "));
    CHECK(html.find("alert(1)</script>") == std::string::npos);
    CHECK(html.find("<b>FAULT</b>") != std::string::npos);
    CHECK(html.find("sample &quot;x&quot; &lt;i&gt;") != std::string::npos);
    CHECK(count_of(html, "<circle") == (few ? 10 : 0));  // positions and points
  }
}

TEST_CASE("a drift report of nothing but equal logprobs has no drawing that divides by zero") {
  DriftResult r = drift_of(3, true);
  for (auto* bins : {&r.plots.positions, &r.plots.stretch, &r.plots.chunk})
    for (DriftPlaceBin& b : *bins) b.mean_abs = b.median_abs = b.high_abs = 0;
  r.plots.histogram_limit = 0;
  check_self_contained(drift_html(r));
}

TEST_CASE("a series report marks the first bad step in words and in the drawing") {
  SeriesResult r;
  r.verdict = {"jump", true, 0.9, "Jump at step 40", {"evidence"}, "next"};
  r.judged_verdict = {"rounding", false, 0.9, "Rounding", {}, "next"};
  for (int i = 0; i < 9; ++i) {
    SeriesStep step;
    step.number = 10 * i, step.level = i < 4 ? 1 : 2, step.mean_abs = 0.01, step.k3 = 1e-4, step.bad = i >= 4,
    step.level_error = 0.1;
    r.steps.push_back(step);
  }
  r.first_bad = 4, r.judged = 4;
  const std::string html = series_html(r);
  check_self_contained(html);
  CHECK(count_of(html, "first bad step: 40</text>") == 3);
  CHECK(html.find("40 (bad)") != std::string::npos);
  CHECK(html.find("Step 40 by itself: Rounding") != std::string::npos);
  CHECK(count_of(html, "<circle") == 27);
}

TEST_CASE("a gate report counts states, names the worst of every check and shows what did not pass") {
  const Run run = mixed_run();
  const std::string html = to_html(run);
  check_self_contained(html);
  CHECK(html.find("<b>NOT PASSED</b>") != std::string::npos);
  CHECK(html.find("<h2>Not passed</h2>") < html.find("<h2>Checks</h2>"));
  CHECK(html.find("<th "
                  "scope=\"row\">grads</th><td>3</td><td>2</td><td>3.0x</"
                  "td><td>model.layers.3.mlp.down_proj.weight") != std::string::npos);
  CHECK(html.find("<th scope=\"row\">FAIL</th><td>1</td>") != std::string::npos);
  CHECK(html.find("FAIL 5c1e9a2") != std::string::npos);
  CHECK(html.find("<th scope=\"row\">tp2</th><td>2</td>") != std::string::npos);
  CHECK(html.find("&lt;end&gt;") != std::string::npos);  // what a crashed case wrote is escaped
  Run empty;
  check_self_contained(to_html(empty));
}

TEST_CASE("axes: ticks at 1, 2 or 5 times a power of ten, logarithmic where values span much") {
  const Axis linear = axis_for({0.013, 0.02}, "x");
  CHECK_FALSE(linear.logarithmic);
  CHECK(linear.low == 0);
  CHECK(linear.ticks(5).front() == 0);
  CHECK(linear.ticks(5)[1] == Approx(0.005));
  const Axis wide = axis_for({1e-6, 0.5, std::numeric_limits<double>::quiet_NaN()}, "x");
  CHECK(wide.logarithmic);
  CHECK(wide.share(1e-6) >= 0);
  CHECK(wide.share(0.5) <= 1);
  CHECK(wide.ticks(5).size() >= 2);
  CHECK(tick_text(120000) == "120k");
  CHECK(axis_for({0, 0}, "x").high == 1);
}

}  // namespace meshparity::reports::html_test

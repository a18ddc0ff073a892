// From what is kept of every step to one verdict, in words.
#include "harness/drift/series.h"

#include <algorithm>
#include <cmath>

#include "harness/drift/rank_series.h"
#include "harness/drift/series_levels.h"
#include "harness/drift/series_tests.h"
#include "harness/types/error.h"

namespace meshparity::drift {
namespace {

double mean_level(const Series& s, std::size_t begin, std::size_t end) {
  std::vector<double> means;
  for (std::size_t i = begin; i < end; ++i) means.push_back(s.steps[i].mean_abs);
  return median_of(std::move(means));
}

std::string means_text(const Series& s, std::size_t at) {
  return "mean |d| " + series_text("%.3g", mean_level(s, 0, at)) + " and " +
         series_text("%.3g", mean_level(s, at, s.steps.size())) + " nats";
}

double series_confidence(const Series& s, const DriftTest& test) {
  const double beyond = std::abs(test.effect) / test.effect_bound - 1;
  return (s.few() ? 0.8 : 0.97) - 0.3 * std::exp(-std::max(0.0, beyond) * 2);
}

std::string list_steps(const Series& s, const std::vector<std::size_t>& which) {
  std::string text;
  for (std::size_t i = 0; i < which.size() && i < 6; ++i) text += (i ? ", " : "") + s.number(which[i]);
  return which.size() > 6 ? text + ", ..." : text;
}

std::string step_word(const std::vector<std::size_t>& which) {
  return which.size() == 1 ? "step " : "steps ";
}

void say_jump(SeriesResult& r, const Series& s, const Jump& jump) {
  const bool up = jump.test.effect > 0;
  r.first_bad = up ? static_cast<int>(jump.at) : 0;
  r.verdict.cause = "jump";
  r.verdict.sentence = (up ? "Jump at step " : "Fall at step ") + s.number(jump.at) +
                       ": from there on |d| is " + series_text("%.3g", std::exp(jump.test.effect)) +
                       " times what it was in the " + std::to_string(jump.at) + " steps before (" +
                       means_text(s, jump.at) +
                       "); first bad step: " + s.number(static_cast<std::size_t>(r.first_bad)) + ".";
  r.verdict.next = "see what happened between steps " + s.number(jump.at - 1) + " and " + s.number(jump.at) +
                   " (a resume, a weight sync, another engine), and compare the two sides' weights: "
                   "`meshparity weights`";
  for (std::size_t i = 0; i < r.steps.size(); ++i) r.steps[i].bad = up ? i >= jump.at : i < jump.at;
}

void say_growth(SeriesResult& r, const Series& s, const Growth& growth) {
  const bool up = growth.test.effect > 0;
  const auto steps = static_cast<double>(s.steps.size());
  const auto reached = static_cast<std::size_t>(
      std::min(steps - 1, std::ceil(std::log(kLeastRatio) / std::abs(growth.slope))));
  r.first_bad = up ? static_cast<int>(reached) : 0;
  r.verdict.cause = "growth";
  r.verdict.sentence = std::string(up ? "Growth" : "Decline") + " over " + std::to_string(s.steps.size()) +
                       " steps: |d| ends at " + series_text("%.3g", std::exp(growth.test.effect)) +
                       " times where it began, " + series_text("%+.2g", 100 * std::expm1(growth.slope)) +
                       " % a step, as when one side's weights stay behind; first bad step: " +
                       s.number(static_cast<std::size_t>(r.first_bad)) +
                       (up ? " (a quarter above the start)." : ".");
  r.verdict.next = "sync the sampler's weights and dump the next step: |d| must fall back to where it began";
  for (std::size_t i = 0; i < r.steps.size(); ++i)
    r.steps[i].bad = up ? i >= reached : i + reached < r.steps.size();
}

void say_apart(SeriesResult& r, const Series& s, const std::vector<std::size_t>& apart) {
  r.first_bad = static_cast<int>(apart[0]);
  const double middle = median_of(s.levels);
  r.verdict.cause = "steps apart";
  r.verdict.sentence =
      std::string(apart.size() == 1 ? "One step is" : std::to_string(apart.size()) + " steps are") +
      " apart from the rest, in all sequences: " + step_word(apart) + list_steps(s, apart) + "; in step " +
      s.number(apart[0]) + " |d| is " + series_text("%.3g", std::exp(s.levels[apart[0]] - middle)) +
      " times the median step's" +
      (apart.size() == 1 && apart[0] + 1 == s.steps.size()
           ? ", and whether that lasts no later step tells yet"
           : "") +
      "; first bad step: " + s.number(apart[0]) + ".";
  r.verdict.next = "judge that step by itself: `meshparity drift " + s.steps[apart[0]].name + "`";
  for (const std::size_t i : apart) r.steps[i].bad = true;
}

void say_spikes(SeriesResult& r, const Series& s, const std::vector<std::size_t>& spikes) {
  const SeriesStep& first = s.steps[spikes[0]];
  r.first_bad = static_cast<int>(spikes[0]);
  r.verdict.cause = "spikes";
  r.verdict.sentence = "Spikes from few sequences in " + std::to_string(spikes.size()) + " of " +
                       std::to_string(s.steps.size()) + " steps (" + step_word(spikes) +
                       list_steps(s, spikes) + "); the typical " + "sequence does not change; in step " +
                       std::to_string(first.number) + " " + std::to_string(first.outlying) + " of " +
                       std::to_string(first.samples) + " sequences raise |d| to " +
                       series_text("%.3g", first.inflation) +
                       " times the others'; first bad step: " + std::to_string(first.number) + ".";
  r.verdict.next = "look at " + (first.outlying_name.empty() ? "those sequences" : first.outlying_name) +
                   " in both dumps: its mask, its length, what the engine did with it";
  for (const std::size_t i : spikes) r.steps[i].bad = true;
}

// Nothing changed: what would have been seen.
void say_flat(SeriesResult& r, const Series& s) {
  r.verdict.cause = "flat";
  std::vector<double> all;
  for (const SeriesStep& step : s.steps) all.push_back(step.mean_abs);
  r.verdict.sentence = "Flat: |d| does not change over " + std::to_string(s.steps.size()) +
                       " steps (mean |d| " + series_text("%.3g", median_of(all)) + " nats, " +
                       series_text("%.3g", *std::min_element(all.begin(), all.end())) + " to " +
                       series_text("%.3g", *std::max_element(all.begin(), all.end())) + ").";
  r.verdict.confidence = s.few() ? 0.6 : 0.9;
  r.verdict.evidence.push_back("a lasting change by " + series_text("%.2f", std::exp(least_jump(s))) +
                               " times in the middle of the series would have been called");
  r.verdict.next = "nothing over time; what stands in every step alike is judged below on one of them";
}

std::string series_evidence(const DriftTest& test) {
  std::string line = test.name + ": " + test.unit + " " + series_text("%.3g", test.effect) + " (bound " +
                     series_text("%.3g", test.effect_bound) + ")";
  if (test.p_bound > 0)
    line += ", p " + series_text("%.1g", test.p) + " (bound " + series_text("%g", test.p_bound) + ")";
  if (!test.ran) line = test.name + ": did not run";
  return test.detail.empty() ? line : line + "; " + test.detail;
}

}  // namespace

SeriesResult judge_series(const std::vector<StepData>& data) {
  if (data.size() < kFewestSteps)
    throw InputError("a series needs at least " + std::to_string(kFewestSteps) + " steps, there are " +
                     std::to_string(data.size()));
  Series s{series_levels(data), {}, 0};
  std::vector<double> errors;
  for (const SeriesStep& step : s.steps)
    s.levels.push_back(std::log(std::max(step.level, 1e-9))), errors.push_back(step.level_error);
  s.error = median_of(errors);
  SeriesResult r;
  r.steps = s.steps;
  const Jump jump = jump_of(s);
  const Growth growth = growth_of(s);
  std::vector<std::size_t> apart, spikes;
  r.tests = {jump.test, growth.test, apart_of(s, apart), spikes_of(s, spikes)};
  const bool grows = growth.test.fired && (!jump.test.fired || growth.residue < jump.residue);
  const DriftTest* said = nullptr;
  if (grows)
    say_growth(r, s, growth), said = &r.tests[1];
  else if (jump.test.fired)
    say_jump(r, s, jump), said = &r.tests[0];
  else if (!apart.empty())
    say_apart(r, s, apart), said = &r.tests[2];
  else if (!spikes.empty())
    say_spikes(r, s, spikes), said = &r.tests[3];
  else
    say_flat(r, s);
  r.verdict.fault = said != nullptr;
  if (said) r.verdict.confidence = series_confidence(s, *said);
  // Steps far from the median step's are what a jump and growth make; spikes may come on top of either.
  for (const DriftTest& test : r.tests)
    if (said == nullptr || said == &test || (test.fired && test.name == "spikes"))
      r.verdict.evidence.push_back(series_evidence(test));
  r.judged = r.first_bad >= 0 ? r.first_bad : static_cast<int>(r.steps.size()) - 1;
  return r;
}

std::string missing_numbers(const std::vector<std::int64_t>& numbers) {
  std::vector<double> distances;
  for (std::size_t i = 1; i < numbers.size(); ++i)
    distances.push_back(static_cast<double>(numbers[i] - numbers[i - 1]));
  // The lower median: a distance that is there.
  std::sort(distances.begin(), distances.end());
  if (distances.empty()) return "";
  const auto usual = static_cast<std::int64_t>(distances[(distances.size() - 1) / 2]);
  std::int64_t missing = 0;
  std::string text;
  int shown = 0;
  for (std::size_t i = 1; i < numbers.size(); ++i) {
    const std::int64_t gap = usual > 0 ? (numbers[i] - numbers[i - 1]) / usual - 1 : 0;
    if (gap <= 0) continue;
    missing += gap;
    if (shown++ == 5) text += ", ...";
    if (shown > 5) continue;
    text += (text.empty() ? "" : ", ") + std::to_string(numbers[i - 1] + usual);
    if (gap > 1) text += " to " + std::to_string(numbers[i - 1] + gap * usual);
  }
  if (missing == 0) return "";
  return std::to_string(missing) + (missing == 1 ? " step is" : " steps are") +
         " missing from the numbers: " + text;
}

}  // namespace meshparity::drift

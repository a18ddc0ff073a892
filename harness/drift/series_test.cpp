// Series with a known answer. Thresholds were fixed on seeds below 1000; these seeds are not.
#include "harness/drift/series.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>

#include "harness/drift/synthetic_series.h"
#include "harness/types/error.h"

namespace meshparity::drift::series_test {

constexpr std::uint64_t kFirstSeed = 1000;

std::vector<StepData> read_all(const SyntheticSeries& series) {
  std::vector<StepData> steps;
  for (std::size_t t = 0; t < series.steps.size(); ++t)
    steps.push_back(
        read_step(static_cast<std::int64_t>(t) + 1, series.steps[t]->name(), *series.steps[t], nullptr));
  return steps;
}

bool named_right(const SyntheticSeries& series, const SeriesResult& result) {
  if (result.verdict.cause != series.cause || result.verdict.fault != (series.cause != "flat")) return false;
  if (series.bad == 0) return result.first_bad == -1;
  return result.first_bad >= 0 && std::abs(result.steps[static_cast<std::size_t>(result.first_bad)].number -
                                           series.bad) <= series.within;
}

TEST_CASE("of 40 synthetic series at least 36 are named right and no flat one is flagged") {
  std::size_t all = 0, right = 0, flagged = 0, flat = 0;
  for (const bool quiet : {true, false})
    for (const std::string& kind : series_kinds(quiet))
      for (std::uint64_t i = 0; i < (quiet ? 4 : 5); ++i) {
        const SyntheticSeries series = make_series(kind, kFirstSeed + i);
        const SeriesResult result = judge_series(read_all(series));
        ++all, right += named_right(series, result);
        flat += quiet, flagged += quiet && result.verdict.fault;
        UNSCOPED_INFO(kind << " seed " << kFirstSeed + i << " (first bad step " << series.bad
                           << "): " << result.verdict.sentence);
      }
  std::printf("synthetic series: %zu of %zu named right, %zu of %zu flat ones flagged\n", right, all, flagged,
              flat);
  CHECK(all == 40);
  CHECK(flat == 20);
  CHECK(flagged == 0);
  CHECK(right >= 36);
}

// Steps of `per_step` equal tokens whose |d| is `sizes` of that step.
std::vector<StepData> plain_steps(const std::vector<double>& sizes, std::size_t sequences = 20) {
  std::vector<StepData> steps;
  for (std::size_t t = 0; t < sizes.size(); ++t) {
    std::vector<LogprobSample> samples;
    for (std::size_t s = 0; s < sequences; ++s) {
      LogprobSample sample;
      sample.name = "sequence " + std::to_string(s);
      for (std::size_t i = 0; i < 100; ++i) {
        sample.rollout.logprobs.push_back(-1 - 0.001 * static_cast<double>(s));
        sample.train.logprobs.push_back(sample.rollout.logprobs.back() + (i % 2 ? sizes[t] : -sizes[t]));
      }
      sample.rollout.mask.assign(100, 1), sample.train.mask = sample.rollout.mask;
      sample.train.has_mask = sample.rollout.has_mask = true;
      samples.push_back(std::move(sample));
    }
    const auto source = std::make_shared<MemorySource>("step", std::move(samples));
    steps.push_back(read_step(static_cast<std::int64_t>(t) + 1, "step", *source, nullptr));
  }
  return steps;
}

TEST_CASE("five steps are enough for a jump, with less confidence, and two are refused") {
  const SeriesResult jump = judge_series(plain_steps({0.01, 0.011, 0.03, 0.031, 0.03}));
  INFO(jump.verdict.sentence);
  CHECK(jump.verdict.cause == "jump");
  CHECK(jump.steps[static_cast<std::size_t>(jump.first_bad)].number == 3);
  CHECK(jump.verdict.confidence <= 0.8);
  CHECK(jump.verdict.sentence.find("Jump at step 3") == 0);
  CHECK(jump.judged == jump.first_bad);
  CHECK_THROWS_AS(judge_series(plain_steps({0.01, 0.03})), InputError);
}

TEST_CASE("a fall is told from a jump, and the bad steps are those before it") {
  const SeriesResult fall =
      judge_series(plain_steps({0.03, 0.03, 0.031, 0.03, 0.01, 0.01, 0.0101, 0.01, 0.01, 0.01}));
  INFO(fall.verdict.sentence);
  CHECK(fall.verdict.sentence.find("Fall at step 5") == 0);
  CHECK(fall.first_bad == 0);
  CHECK(fall.steps[3].bad);
  CHECK_FALSE(fall.steps[4].bad);
}

TEST_CASE("a step in the middle that is apart is no jump, and the last one alone is said to be open") {
  const SeriesResult one =
      judge_series(plain_steps({0.01, 0.01, 0.01, 0.05, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01}));
  INFO(one.verdict.sentence);
  CHECK(one.verdict.cause == "steps apart");
  CHECK(one.steps[static_cast<std::size_t>(one.first_bad)].number == 4);
  const SeriesResult last = judge_series(plain_steps({0.01, 0.01, 0.01, 0.01, 0.05}));
  INFO(last.verdict.sentence);
  CHECK(last.verdict.cause == "steps apart");
  CHECK(last.verdict.sentence.find("no later step tells yet") != std::string::npos);
}

TEST_CASE("equal sides are flat, and differences that appear out of nothing are a jump") {
  const SeriesResult nothing = judge_series(plain_steps({0, 0, 0, 0}));
  CHECK(nothing.verdict.cause == "flat");
  CHECK_FALSE(nothing.verdict.fault);
  const SeriesResult appears =
      judge_series(plain_steps({0, 0, 0, 0, 0, 0, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01}));
  INFO(appears.verdict.sentence);
  CHECK(appears.verdict.cause == "jump");
  CHECK(appears.steps[static_cast<std::size_t>(appears.first_bad)].number == 7);
}

TEST_CASE("a flat series says which change it would have called") {
  const SeriesResult flat = judge_series(plain_steps(std::vector<double>(12, 0.01)));
  CHECK(flat.verdict.cause == "flat");
  CHECK(flat.verdict.evidence.at(0).find("1.25 times") != std::string::npos);
  CHECK(flat.judged == 11);
}

TEST_CASE("more tokens of low probability raise the mean but not the level") {
  // The same differences at equal probabilities; the later steps hold more tokens that are hard.
  std::vector<StepData> steps;
  for (int t = 0; t < 16; ++t) {
    std::vector<LogprobSample> samples(20);
    for (LogprobSample& sample : samples) {
      for (int i = 0; i < 100; ++i) {
        const bool hard = i % 20 <= t;
        sample.rollout.logprobs.push_back(hard ? -3 : -0.001);
        sample.train.logprobs.push_back(sample.rollout.logprobs.back() +
                                        (i % 2 ? 1 : -1) * (hard ? 0.05 : 0.0005));
      }
      sample.rollout.mask.assign(100, 1), sample.train.mask = sample.rollout.mask;
    }
    const auto source = std::make_shared<MemorySource>("step", std::move(samples));
    steps.push_back(read_step(t + 1, "step", *source, nullptr));
  }
  const SeriesResult result = judge_series(steps);
  INFO(result.verdict.sentence);
  CHECK(result.steps.back().mean_abs > 5 * result.steps.front().mean_abs);
  CHECK(result.verdict.cause == "flat");
}

TEST_CASE("numbers that are missing are counted by the usual distance") {
  CHECK(missing_numbers({1, 2, 3, 4}).empty());
  CHECK(missing_numbers({10, 20, 30}).empty());
  CHECK(missing_numbers({1, 2, 4, 5}) == "1 step is missing from the numbers: 3");
  CHECK(missing_numbers({10, 20, 30, 60, 70}) == "2 steps are missing from the numbers: 40 to 50");
  CHECK(missing_numbers({7}).empty());
}

}  // namespace meshparity::drift::series_test

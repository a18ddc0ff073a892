// Alignment, pairing, pre-checks and numbers on data small enough to check by hand.
#include "harness/drift/drift.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "harness/drift/contrast.h"
#include "harness/drift/synthetic.h"
#include "harness/types/error.h"
#include "harness/types/generator.h"

namespace meshparity::drift::drift_test {

using Catch::Contains;
using Catch::WithinAbs;
using Catch::WithinRel;

LogprobSide side(std::vector<double> logprobs, std::vector<std::int64_t> ids = {},
                 std::vector<std::uint8_t> mask = {}) {
  LogprobSide made;
  made.has_mask = !mask.empty();
  made.mask = mask.empty() ? std::vector<std::uint8_t>(logprobs.size(), 1) : std::move(mask);
  made.logprobs = std::move(logprobs), made.ids = std::move(ids);
  return made;
}

LogprobSample sample(LogprobSide train, LogprobSide rollout) {
  LogprobSample made;
  made.name = "file: sample", made.train = std::move(train), made.rollout = std::move(rollout);
  return made;
}

std::shared_ptr<MemorySource> source(std::vector<LogprobSample> samples) {
  return std::make_shared<MemorySource>("file", std::move(samples));
}

std::string refusal(const SampleSource& train, const SampleSource* rollout) {
  try {
    analyse(train, rollout);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("metrics of three tokens are what their formulas give") {
  // d = 0.1, -0.2, 0.3
  const auto both = source({sample(side({-1, -2, -3}), side({-1.1, -1.8, -3.3}))});
  const DriftMetrics m = analyse(*both, nullptr).metrics;
  const std::vector<double> d = {0.1, -0.2, 0.3};
  double k3 = 0, w = 0, ww = 0;
  for (const double x : d) k3 += std::exp(x) - 1 - x, w += std::exp(x), ww += std::exp(2 * x);
  CHECK(m.tokens == 3);
  CHECK_THAT(m.mean_abs, WithinRel(0.2, 1e-12));
  CHECK_THAT(m.k1, WithinRel(-0.2 / 3, 1e-12));
  CHECK_THAT(m.k2, WithinRel(0.14 / 6, 1e-12));
  CHECK_THAT(m.k3, WithinRel(k3 / 3, 1e-12));
  CHECK_THAT(m.chi_square, WithinRel(ww / 3 - 1, 1e-12));
  CHECK_THAT(m.effective_samples, WithinRel(w * w / (3 * ww), 1e-12));
  CHECK_THAT(m.perplexity_train / m.perplexity_rollout, WithinRel(std::exp(-0.2 / 3), 1e-12));
  CHECK_THAT(m.max_abs, WithinRel(0.3, 1e-12));
  CHECK_THAT(m.quantiles[0].second, WithinRel(0.2, 1.0 / 64));
  CHECK(m.pearson > 0.9);
}

TEST_CASE("quantiles of a million magnitudes are right to a sixty-fourth, and so is what the worst carry") {
  MagnitudeHistogram histogram;
  const Generator random(3, "quantiles");
  std::vector<double> all;
  double sum = 0;
  for (std::uint64_t i = 0; i < 1'000'000; ++i)
    all.push_back(std::exp(3 * random.normal(i)) * 1e-3), histogram.add(all.back()), sum += all.back();
  std::sort(all.begin(), all.end());
  for (const double level : {0.01, 0.5, 0.9, 0.999})
    CHECK_THAT(histogram.quantile(level), WithinRel(all[static_cast<std::size_t>(level * 1e6)], 1.0 / 64));
  double top = 0;
  for (std::size_t i = 999'000; i < all.size(); ++i) top += all[i];
  CHECK_THAT(histogram.sum_above_quantile(0.999), WithinRel(top, 1e-3));
  CHECK(sum > top);
  MagnitudeHistogram empty;
  CHECK(empty.quantile(0.5) == 0);
  empty.add(0);
  CHECK(empty.quantile(0.99) == 0);
}

TEST_CASE("Student's t has the tails of its table") {
  // t for a two-sided probability of 5 % and 0.1 % (Abramowitz and Stegun, table 26.10).
  CHECK_THAT(student_tail(2.262, 9), WithinAbs(0.05, 2e-5));
  CHECK_THAT(student_tail(4.781, 9), WithinAbs(0.001, 1e-6));
  CHECK_THAT(student_tail(1.9600, 1e7), WithinAbs(0.05, 1e-5));
  CHECK(student_tail(0, 5) == 1);
  CHECK(student_tail(40, 1000) < 1e-100);
  Contrast few;
  for (int i = 0; i < 7; ++i) few.add(1 + 1e-6 * i);
  CHECK(few.p() == 1);
}

TEST_CASE("a fit on two features explains what they explain") {
  TwoFeatureFit exact, none;
  const Generator random(5, "fit");
  for (std::uint64_t i = 0; i < 1000; ++i) {
    const double f = random.normal(3 * i), g = random.normal(3 * i + 1);
    exact.add(2 * f - g + 1, f, g), none.add(random.normal(3 * i + 2), f, g);
  }
  CHECK_THAT(exact.explained(), WithinAbs(1, 1e-9));
  CHECK(none.explained() < 0.02);
}

TEST_CASE("sides meet at their common tokens: a prompt on one side, padding on the other") {
  PairingCounts counts;
  const auto train = side({-9, -9, -9, -1, -2, -3, -4, -5, -6, -7, -8}, {70, 71, 72, 1, 2, 3, 4, 5, 6, 7, 8});
  const auto rollout = side({-1, -2, -3, -4, -5, -6, -7, -8, 0, 0}, {1, 2, 3, 4, 5, 6, 7, 8, 0, 0});
  const Pair pair = align("s", train, rollout, counts);
  CHECK(pair.train == std::vector<double>{-1, -2, -3, -4, -5, -6, -7, -8});
  CHECK(pair.rollout == pair.train);
  CHECK(pair.positions.front() == 3);
  CHECK(counts.offset_samples == 1);
  CHECK(counts.offset_example == -3);
  CHECK(align("s", side({-1, -2, -3}, {1, 2, 3}), side({-1, -2, -3}, {4, 5, 6}), counts).train.empty());
}

TEST_CASE(
    "masks of both sides hold, other tokens are left out, zeros at the ends are trimmed without a mask") {
  PairingCounts counts;
  const Pair masked =
      align("s", side({-1, -2, -3, -4}, {}, {1, 1, 0, 1}), side({-1, -2, -3, -5}, {}, {1, 0, 0, 1}), counts);
  CHECK(masked.train == std::vector<double>{-1, -4});
  CHECK(counts.masked == 2);
  CHECK(counts.mask_differs == 1);
  CHECK(counts.mask_union == 3);
  PairingCounts other;
  std::vector<std::int64_t> ids(20, 0), changed;
  std::vector<double> logprobs;
  for (std::size_t i = 0; i < 20; ++i)
    ids[i] = static_cast<std::int64_t>(i), logprobs.push_back(-1 - static_cast<double>(i));
  changed = ids, changed[7] = 99;
  CHECK(align("s", side(logprobs, ids), side(logprobs, changed), other).train.size() == 19);
  CHECK(other.other_tokens == 1);
  PairingCounts trimmed;
  CHECK(align("s", side({-3, -3, -1, -2, 0, 0, 0}), side({0, 0, -1, -2, 0, 0, 0}), trimmed).train ==
        std::vector<double>{-1, -2});
  CHECK(trimmed.trimmed == 5);
}

TEST_CASE("samples of two files are found by their tokens, in any order and with other prompts") {
  std::vector<LogprobSample> train, rollout;
  const Generator random(11, "pairs");
  for (std::uint64_t s = 0; s < 40; ++s) {
    std::vector<std::int64_t> prompt(30, 5), ids;  // every sample has the same prompt
    std::vector<double> logprobs;
    for (std::uint64_t i = 0; i < 40; ++i)
      ids.push_back(random.below(s * 100 + i, 1000)),
          logprobs.push_back(-random.uniform(s * 100 + i) - 0.001 * static_cast<double>(s));
    LogprobSample a, b;
    a.name = "a" + std::to_string(s), b.name = "b";
    a.only = side(logprobs, ids);
    prompt.insert(prompt.end(), ids.begin(), ids.end());
    std::vector<double> longer(30, -1);
    longer.insert(longer.end(), logprobs.begin(), logprobs.end());
    b.only = side(longer, prompt);
    train.push_back(a);
    rollout.insert(rollout.begin() + static_cast<std::ptrdiff_t>(s / 2), b);
  }
  rollout.pop_back();
  const auto a = source(train), b = source(rollout);
  const DriftResult result = analyse(*a, b.get());
  CHECK(result.samples_paired == 39);
  CHECK(result.metrics.tokens == 39 * 40);
  CHECK(result.metrics.mean_abs == 0);
  CHECK(result.checks[0].name == "samples without a counterpart");
  CHECK(result.checks[0].count == 1);
  CHECK_FALSE(result.verdict.fault);
}

TEST_CASE("nothing in common, empty, masked out and NaN are errors, never a pass") {
  const auto a = source({sample(side({-1, -2, -3}, {1, 2, 3}), {})});
  const auto b = source({sample({}, side({-1, -2, -3}, {4, 5, 6}))});
  CHECK_THAT(refusal(*a, b.get()), Contains("file and file: share no tokens: none of 1 and 1 samples"));
  const auto shorter = source({sample({}, side({-1, -2}))});
  const auto without = source({sample(side({-1, -2, -3}), {})});
  CHECK_THAT(refusal(*without, shorter.get()),
             Contains("no sample can be compared") && Contains("has 3 logprobs, its counterpart 2"));
  CHECK_THAT(refusal(*a, nullptr), Contains("holds no rollout logprobs; name the other side's file"));
  CHECK_THAT(refusal(*source({}), nullptr), Contains("share no tokens"));
  CHECK_THAT(refusal(*source({sample(side({-1}, {}, {0}), side({-1}, {}, {0}))}), nullptr),
             Contains("no token counts"));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THAT(refusal(*source({sample(side({-1, nan}), side({-1, -2}))}), nullptr),
             Contains("file: sample: train logprobs: slot 1 holds NaN"));
  CHECK_THAT(refusal(*source({sample(side({-1, -1}), side({-1, HUGE_VAL}))}), nullptr),
             Contains("rollout logprobs: slot 1 holds +infinity"));
  // NaN where nothing counts harms nobody.
  CHECK(refusal(*source({sample(side({-1, nan}, {}, {1, 0}), side({-1, -2}))}), nullptr).empty());
}

TEST_CASE(
    "fills, tokens outside the support, positive values and duplicates are counted before any statistics") {
  std::vector<double> good, fills, outside, positive;
  for (int i = 0; i < 20; ++i)
    good.push_back(-1 - 0.1 * i), fills.push_back(i % 5 ? -1 - 0.1 * i : -9999),
        outside.push_back(i == 3 ? -HUGE_VAL : -1 - 0.1 * i), positive.push_back(i == 4 ? 0.7 : -1 - 0.1 * i);
  const auto result = [&](const std::vector<double>& train) {
    return analyse(*source({sample(side(train, {}, std::vector<std::uint8_t>(20, 1)), side(good)),
                            sample(side(train), side(good))}),
                   nullptr);
  };
  const auto has = [](const DriftResult& r, const std::string& name, std::uint64_t count) {
    for (const auto& check : r.checks)
      if (check.name == name) return check.count == count;
    return false;
  };
  CHECK(has(result(fills), "constant fills in train", 8));
  CHECK(result(fills).verdict.cause == "mask");
  CHECK(has(result(outside), "tokens outside train's support", 2));
  CHECK(result(outside).verdict.cause == "support");
  CHECK(has(result(positive), "positive logprobs", 2));
  CHECK(result(positive).verdict.cause == "unfit dumps");
  CHECK(has(result(good), "duplicated samples", 1));
  CHECK_FALSE(result(good).verdict.fault);
  CHECK_THAT(result(good).verdict.sentence, Contains("No drift: all 40 logprobs are equal"));
}

TEST_CASE("beyond four million tokens whole samples are kept evenly and all tokens are measured") {
  class Many : public SampleSource, public std::enable_shared_from_this<Many> {
    class Batch : public SampleBatch {
     public:
      std::size_t size() const override { return 1; }
      LogprobSample sample(std::size_t) const override {
        std::vector<double> a(20'000), b(20'000);
        for (std::size_t i = 0; i < a.size(); ++i)
          a[i] = -1 - static_cast<double>(i % 977) / 977, b[i] = a[i] + (i % 2 ? 0.01 : -0.01);
        return drift_test::sample(side(std::move(a)), side(std::move(b)));
      }
    };

   public:
    std::size_t units() const override { return 500; }
    std::shared_ptr<const SampleBatch> load(std::size_t) const override { return std::make_shared<Batch>(); }
    std::string name() const override { return "many"; }
    std::string format() const override { return "memory"; }
    std::vector<std::string> notes() const override { return {}; }
  };
  const DriftResult result = analyse(Many(), nullptr);
  CHECK(result.metrics.tokens == 10'000'000);
  CHECK(result.tokens_tested <= kMostTokens);
  CHECK(result.tokens_tested >= kMostTokens / 4);
  CHECK_THAT(result.metrics.mean_abs, WithinRel(0.01, 1e-9));
}

}  // namespace meshparity::drift::drift_test

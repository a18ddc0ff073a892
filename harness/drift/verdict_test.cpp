// The verdict on synthetic pairs with a known answer. Thresholds were fixed on seeds below 1000; these seeds
// are not.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>
#include <map>

#include "harness/drift/drift.h"
#include "harness/drift/synthetic.h"
#include "harness/types/generator.h"

namespace meshparity::drift::verdict_test {

constexpr std::uint64_t kFirstSeed = 20'000;

struct Judged {
  SyntheticPair pair;
  DriftResult result;
  bool right() const {
    return result.verdict.cause == pair.cause &&
           (pair.detail.empty() || result.verdict.sentence.find(pair.detail) != std::string::npos ||
            result.verdict.sentence.find(pair.detail.substr(pair.detail.find(' ') + 1)) != std::string::npos);
  }
};

Judged judge(const std::string& kind, std::uint64_t seed) {
  Judged judged;
  judged.pair = make_synthetic(kind, seed);
  judged.result = analyse(*judged.pair.source, nullptr);
  return judged;
}

TEST_CASE("at least nine of ten synthetic faults are named right") {
  constexpr std::uint64_t kEach = 8;
  std::size_t right = 0, all = 0, silent = 0;
  for (const std::string& kind : synthetic_kinds(false)) {
    std::size_t of_kind = 0;
    for (std::uint64_t i = 0; i < kEach; ++i) {
      const Judged judged = judge(kind, kFirstSeed + i);
      of_kind += judged.right(), silent += !judged.result.verdict.fault;
      UNSCOPED_INFO(kind << " " << judged.pair.detail << " seed " << kFirstSeed + i << ": "
                         << judged.result.verdict.cause << ": " << judged.result.verdict.sentence);
    }
    right += of_kind, all += kEach;
  }
  std::printf("synthetic faults: %zu of %zu named right, %zu not seen\n", right, all, silent);
  CHECK(all == 104);
  CHECK(right * 10 >= all * 9);
}

// 32 samples of Gaussian noise, `scale(size, place)` of it at a place, where `size` is drawn for each sample.
template <class Length, class Scale>
DriftResult judge_noise(const Generator& draw, std::int64_t least, std::int64_t more, Length length_of,
                        Scale scale) {
  std::vector<LogprobSample> samples;
  std::uint64_t at = 0;
  for (int n = 0; n < 32; ++n) {
    LogprobSample sample;
    sample.name = "sample " + std::to_string(n);
    const std::int64_t size = least + draw.below(at++, more), length = length_of(size);
    for (std::int64_t t = 0; t < length; ++t) {
      const double logprob = -0.1 - 5 * draw.uniform(at++), noise = draw.normal(at++);
      sample.rollout.logprobs.push_back(logprob);
      sample.train.logprobs.push_back(std::min(-1e-3, logprob + scale(size, t) * noise));
    }
    for (auto* side : {&sample.train, &sample.rollout})
      side->mask.assign(static_cast<std::size_t>(length), 1), side->first = 1,
                                                              side->document_tokens = length + 1;
    samples.push_back(std::move(sample));
  }
  return analyse(*std::make_shared<MemorySource>("noise", std::move(samples)), nullptr);
}

// Samples of 180 to 239 tokens, `scale(length, place)`.
template <class Scale>
DriftResult judge_noise(const Generator& draw, Scale scale) {
  return judge_noise(
      draw, 180, 60, [](std::int64_t length) { return length; }, scale);
}

// Two engines of the same low precision agree bit for bit until a first number is rounded the other way.
TEST_CASE("bits that are equal until a first flip are no growth with position") {
  const DriftResult found = judge_noise(
      Generator(7, "flips"), 30, 30, [](std::int64_t) { return 150; },
      [](std::int64_t equal, std::int64_t t) { return t < equal ? 0 : 0.02; });
  INFO(found.verdict.sentence);
  CHECK(!found.verdict.fault);
}

// Like arithmetic on both sides rounds the first shard alike and the later one otherwise, for good.
TEST_CASE("a small step at a cut that does not fade is no layout mismatch and no growth, a fading one is") {
  for (const bool fades : {false, true}) {
    const DriftResult found = judge_noise(Generator(8, "step"), [fades](std::int64_t length, std::int64_t t) {
      const double behind = static_cast<double>(t - length / 2);
      return 0.01 * (behind < 0 ? 1 : fades ? 1 + 6 * std::exp(-behind / 20) : 3);
    });
    INFO(found.verdict.sentence);
    CHECK(found.verdict.cause == (fades ? "layout" : "rounding"));
  }
}

TEST_CASE("steps at two places that stay are no growth with position, a rise between them is") {
  for (const bool rises : {false, true}) {
    const DriftResult found =
        judge_noise(Generator(9, "steps"), [rises](std::int64_t length, std::int64_t t) {
          const double share = static_cast<double>(t) / static_cast<double>(length);
          if (rises) return 0.01 * (1 + 4 * share);
          return 0.01 * (share < 0.28 ? 1 : share < 0.53 ? 2 : 3);
        });
    INFO(found.verdict.sentence);
    CHECK(found.verdict.cause == (rises ? "precision growing with position" : "rounding"));
  }
}

// The same arithmetic on both sides up to where one of them adds up in another order.
TEST_CASE("tokens that are equal up to a cut and rounded otherwise behind it are no layout mismatch") {
  for (const bool fades : {false, true}) {
    const DriftResult found =
        judge_noise(Generator(10, "equal"), [fades](std::int64_t length, std::int64_t t) {
          const double behind = static_cast<double>(t - length / 2);
          return behind < 0 ? 0 : 0.02 * (fades ? 1 + 6 * std::exp(-behind / 20) : 1);
        });
    INFO(found.verdict.sentence);
    CHECK(found.verdict.cause == (fades ? "layout" : "rounding"));
    CHECK(found.verdict.sentence.find("the same everywhere") == std::string::npos);
    if (!fades) CHECK(found.verdict.evidence.at(1).find("equal bit for bit") != std::string::npos);
  }
}

TEST_CASE("experts that change places are the same, those of another token are not") {
  for (const bool shifted : {false, true}) {
    const Generator draw(11, "experts");
    std::vector<LogprobSample> samples;
    std::uint64_t at = 0;
    for (int n = 0; n < 20; ++n) {
      LogprobSample sample;
      sample.name = "sample " + std::to_string(n);
      for (auto* side : {&sample.train, &sample.rollout}) side->route_width = 4;
      for (int t = 0; t < 100; ++t) {
        const double logprob = -0.1 - 5 * draw.uniform(at++);
        sample.train.logprobs.push_back(logprob);
        sample.rollout.logprobs.push_back(logprob - 0.01 * draw.normal(at++));
        const std::int64_t first = draw.below(at++, 60);
        for (const std::int64_t expert : {0, 1, 2, 3}) sample.train.routes.push_back(first + expert);
        for (const std::int64_t expert : {1, 0, 3, 2}) sample.rollout.routes.push_back(first + expert);
      }
      auto& routes = sample.rollout.routes;
      if (shifted) std::rotate(routes.begin(), routes.begin() + 4, routes.end());
      for (auto* side : {&sample.train, &sample.rollout}) side->mask.assign(100, 1);
      samples.push_back(std::move(sample));
    }
    const DriftResult found =
        analyse(*std::make_shared<MemorySource>("experts", std::move(samples)), nullptr);
    INFO(found.verdict.sentence);
    CHECK(found.verdict.cause == (shifted ? "routing" : "rounding"));
  }
}

TEST_CASE("no fault is claimed on synthetic benign noise") {
  constexpr std::uint64_t kEach = 15;
  std::size_t all = 0, claimed = 0;
  for (const std::string& kind : synthetic_kinds(true))
    for (std::uint64_t i = 0; i < kEach; ++i) {
      const Judged judged = judge(kind, kFirstSeed + i);
      ++all, claimed += judged.result.verdict.fault;
      if (judged.result.verdict.fault)
        UNSCOPED_INFO(kind << " seed " << kFirstSeed + i << ": " << judged.result.verdict.sentence);
    }
  std::printf("synthetic benign pairs: %zu, a fault claimed on %zu\n", all, claimed);
  CHECK(all == 120);
  CHECK(claimed == 0);
}

TEST_CASE("a verdict carries evidence, a confidence and the next run") {
  for (const char* kind : {"layout-zigzag", "benign-gaussian", "mask-fill"}) {
    const DriftVerdict verdict = judge(kind, kFirstSeed).result.verdict;
    INFO(kind);
    CHECK(!verdict.evidence.empty());
    CHECK(!verdict.next.empty());
    CHECK(verdict.confidence > 0.4);
    CHECK(verdict.confidence <= 0.97);
  }
}

}  // namespace meshparity::drift::verdict_test

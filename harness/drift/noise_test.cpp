// Whether drift is above the noise of a second run: clean pairs are not, drift that is twice as large is.
#include "harness/drift/noise.h"

#include <catch2/catch.hpp>
#include <cstdio>

#include "harness/drift/synthetic.h"

namespace meshparity::drift::noise_test {

// Every difference `times` as large.
std::shared_ptr<MemorySource> widened(const SyntheticPair& pair, double times) {
  std::vector<LogprobSample> samples = pair.source->samples();
  for (LogprobSample& sample : samples)
    for (std::size_t i = 0; i < sample.train.logprobs.size(); ++i)
      sample.train.logprobs[i] =
          sample.rollout.logprobs[i] + times * (sample.train.logprobs[i] - sample.rollout.logprobs[i]);
  return std::make_shared<MemorySource>("widened", std::move(samples));
}

TEST_CASE("of 203 clean pairs at most one in a hundred is above its noise, and drift twice as large is") {
  std::size_t above = 0, seen = 0, all = 0;
  for (const std::string& kind : synthetic_kinds(true)) {
    if (kind == "benign-equal") continue;
    for (std::uint64_t seed = 40'000; seed < 40'029; ++seed) {
      // Two independent runs of one recipe: the one's differences are the drift, the other's the noise.
      const auto a = make_synthetic(kind, seed, 0), b = make_synthetic(kind, seed, 1);
      ++all, above += compare_spreads(*a.source, nullptr, *b.source, nullptr).above;
      seen += compare_spreads(*widened(a, 2), nullptr, *b.source, nullptr).above;
    }
  }
  std::printf("clean pairs: %zu, above their noise %zu; drift twice as large: %zu above\n", all, above, seen);
  CHECK(all == 203);
  CHECK(above * 100 <= all);
  CHECK(seen * 10 >= all * 8);
}

TEST_CASE("the noise run is found by its side's tokens, and equal runs make any drift count") {
  const auto pair = make_synthetic("benign-gaussian", 40'100);
  std::vector<LogprobSample> samples = pair.source->samples();
  for (LogprobSample& sample : samples) sample.rollout = LogprobSide{};
  const auto again = std::make_shared<MemorySource>("again", samples);
  const DriftNoise equal = compare_with_noise(*pair.source, nullptr, *again, false);
  CHECK(equal.above);
  CHECK(equal.sentence == "Above your noise: two runs of one side are equal, train and rollout are not.");
  // The trainer's run as a second run of the sampler: as far from the rollout as the trainer is.
  const DriftNoise same = compare_with_noise(*pair.source, nullptr, *again, true);
  CHECK_FALSE(same.above);
  CHECK(same.side == "rollout");
  CHECK(same.ratio_median == 1);
  CHECK(same.sentence.rfind("Within your noise: median |d| is 1 times", 0) == 0);
}

}  // namespace meshparity::drift::noise_test

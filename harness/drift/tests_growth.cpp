// Whether |d| grows with position, as opposed to a step at some place.
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "harness/drift/contrast.h"
#include "harness/drift/tests.h"

namespace meshparity::drift {
namespace {

// The pieces of all documents, cut at two shares of their length, whose means explain most of the ranks of
// |d|: what a step or two at some cut would leave.
class Pieces {
 public:
  static constexpr std::size_t kCount = 3;

  explicit Pieces(const KeptTokens& kept) {
    std::array<double, kShares + 1> sums{}, counts{};
    for (const KeptSample& sample : kept.samples)
      for (std::size_t i = sample.begin; i < sample.end; ++i) {
        const std::size_t share = share_of(kept.tokens[i], sample);
        sums[share + 1] += static_cast<double>(kept.tokens[i].rank), counts[share + 1] += 1;
      }
    std::partial_sum(sums.begin(), sums.end(), sums.begin());
    std::partial_sum(counts.begin(), counts.end(), counts.begin());
    // A piece's sum squared over its count: what its mean takes from the sum of squares.
    const auto takes = [&](std::size_t begin, std::size_t end) {
      const double sum = sums[end] - sums[begin], count = counts[end] - counts[begin];
      return count > 0 ? sum * sum / count : 0;
    };
    double most = -1;
    for (std::size_t first = 1; first < kShares; ++first)
      for (std::size_t second = first + 1; second < kShares; ++second)
        if (const double taken = takes(0, first) + takes(first, second) + takes(second, kShares);
            taken > most)
          most = taken, cuts_ = {first, second};
  }

  std::size_t of(const Token& token, const KeptSample& sample) const {
    const std::size_t share = share_of(token, sample);
    return share < cuts_[0] ? 0 : share < cuts_[1] ? 1 : 2;
  }
  std::string names() const {
    return std::to_string(cuts_[0]) + "/" + std::to_string(kShares) + " and " + std::to_string(cuts_[1]) +
           "/" + std::to_string(kShares);
  }

 private:
  static constexpr std::size_t kShares = 48;
  static std::size_t share_of(const Token& token, const KeptSample& sample) {
    const auto length = std::max<std::int64_t>(1, sample.document_tokens);
    return static_cast<std::size_t>(std::clamp<std::int64_t>(
        token.position * static_cast<std::int64_t>(kShares) / length, 0, kShares - 1));
  }

  std::array<std::size_t, kCount - 1> cuts_{};
};

// Mean rank of the last third of these ranks minus that of the first.
std::optional<double> rise(const std::vector<double>& ranks) {
  const auto third = static_cast<std::ptrdiff_t>(ranks.size() / 3);
  if (third < 4) return std::nullopt;
  return (std::accumulate(ranks.end() - third, ranks.end(), 0.0) -
          std::accumulate(ranks.begin(), ranks.begin() + third, 0.0)) /
         static_cast<double>(third);
}

}  // namespace

DriftTest test_growth(const KeptTokens& kept) {
  DriftTest test = bounded("growth with position",
                           "mean rank of |d| in the last third of a sample minus the first", kRankEffect);
  const Pieces pieces(kept);
  Contrast contrast, within;
  TwoFeatureFit fit;
  std::vector<double> whole;
  std::array<std::vector<double>, Pieces::kCount> parts;
  for (const KeptSample& sample : kept.samples) {
    whole.clear();
    for (auto& part : parts) part.clear();
    for (std::size_t i = sample.begin; i < sample.end; ++i) {
      const Token& token = kept.tokens[i];
      const double place = token.position, rank = static_cast<double>(token.rank);
      fit.add(rank, std::log1p(place),
              place / std::max<double>(1, static_cast<double>(sample.document_tokens)));
      parts[pieces.of(token, sample)].push_back(rank);
      if (std::fabs(token.d) > kept.untouched) whole.push_back(rank);
    }
    if (const auto rises = rise(whole)) contrast.add(*rises);
    double sum = 0, count = 0;
    for (const auto& part : parts)
      if (const auto rises = rise(part))
        sum += *rises * static_cast<double>(part.size()), count += static_cast<double>(part.size());
    if (count > 0) within.add(sum / count);
  }
  conclude(test, contrast.mean(), contrast.p(), contrast.count());
  test.explained = fit.explained();
  test.fired = test.fired && test.effect > 0;
  // Growth is no step: it goes on between the two largest.
  constexpr double kWithin = 0.02, kWithinProbability = 1e-4;
  if (test.fired && (within.mean() < kWithin || within.p() > kWithinProbability)) {
    test.fired = false;
    test.detail = "steps at " + pieces.names() + " of the documents, level between them";
  }
  return test;
}

}  // namespace meshparity::drift

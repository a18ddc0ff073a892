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

// The one step, at a share of every document, that explains most of the ranks of |d|.
class LargestStep {
 public:
  explicit LargestStep(const KeptTokens& kept) {
    std::array<double, kShares> sums{}, counts{};
    double square = 0;
    for (const KeptSample& sample : kept.samples)
      for (std::size_t i = sample.begin; i < sample.end; ++i) {
        const auto rank = static_cast<double>(kept.tokens[i].rank);
        const auto share = static_cast<std::size_t>(std::clamp<std::int64_t>(
            kept.tokens[i].position * kShares / std::max<std::int64_t>(1, sample.document_tokens), 0,
            kShares - 1));
        sums[share] += rank, counts[share] += 1, square += rank * rank;
      }
    const double sum = std::accumulate(sums.begin(), sums.end(), 0.0),
                 count = std::accumulate(counts.begin(), counts.end(), 0.0);
    if (count == 0) return;
    const double variance = square - sum * sum / count;
    double before = 0, n = 0;
    for (std::size_t share = 1; share < kShares; ++share) {
      before += sums[share - 1], n += counts[share - 1];
      if (n == 0 || n == count || variance <= 0) continue;
      const double apart = before / n - (sum - before) / (count - n);
      const double explains = apart * apart * n * (count - n) / (count * variance);
      if (explains > explained_) explained_ = explains, share_ = share;
    }
  }
  double explained() const { return explained_; }
  bool behind(const Token& token, const KeptSample& sample) const {
    return token.position * kShares >= static_cast<std::int64_t>(share_) * sample.document_tokens;
  }
  std::string name() const { return std::to_string(share_) + "/" + std::to_string(kShares); }

 private:
  static constexpr std::int64_t kShares = 48;
  double explained_ = 0;
  std::size_t share_ = 0;
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
  const LargestStep step(kept);
  Contrast contrast, behind_step;
  TwoFeatureFit fit;
  std::vector<double> ranks, behind;
  for (const KeptSample& sample : kept.samples) {
    ranks.clear(), behind.clear();
    for (std::size_t i = sample.begin; i < sample.end; ++i) {
      const Token& token = kept.tokens[i];
      const double place = token.position, rank = static_cast<double>(token.rank);
      fit.add(rank, std::log1p(place),
              place / std::max<double>(1, static_cast<double>(sample.document_tokens)));
      if (std::fabs(token.d) <= kept.untouched) continue;
      ranks.push_back(rank);
      if (step.behind(token, sample)) behind.push_back(rank);
    }
    if (const auto rises = rise(ranks)) contrast.add(*rises);
    if (const auto rises = rise(behind)) behind_step.add(*rises);
  }
  conclude(test, contrast.mean(), contrast.p(), contrast.count());
  test.explained = fit.explained();
  test.fired = test.fired && test.effect > 0;
  // The best step explains three quarters of what a line does, a line three quarters of a step; and growth
  // goes on behind it.
  constexpr double kGoesOnProbability = 1e-3;
  if (test.fired && (step.explained() >= test.explained || behind_step.mean() <= 0 ||
                     behind_step.p() > kGoesOnProbability)) {
    test.fired = false;
    test.detail = "a step at " + step.name() + " of the documents rather than growth";
  }
  return test;
}

}  // namespace meshparity::drift

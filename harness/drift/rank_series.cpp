#include "harness/drift/rank_series.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "harness/types/generator.h"

namespace meshparity::drift {
namespace {

constexpr std::size_t kExact = 7;
constexpr int kShuffles = 4999;

double cusum(const std::vector<double>& ranks, std::size_t fewest, std::size_t* at) {
  const double n = static_cast<double>(ranks.size());
  double sum = 0, best = 0;
  for (std::size_t k = 1; k + fewest <= ranks.size(); ++k) {
    sum += ranks[k - 1] - (n + 1) / 2;
    if (k < fewest) continue;
    const double m = static_cast<double>(k),
                 statistic = std::abs(sum) / std::sqrt(m * (n - m) * (n + 1) / 12);
    if (statistic <= best) continue;
    best = statistic;
    if (at) *at = k;
  }
  return best;
}

double kendall(const std::vector<double>& values) {
  double s = 0;
  for (std::size_t i = 0; i < values.size(); ++i)
    for (std::size_t j = i + 1; j < values.size(); ++j)
      s += values[j] > values[i] ? 1 : values[j] < values[i] ? -1 : 0;
  return s;
}

// Calls `each` for every order of the ranks.
template <class Each>
void for_each_order(std::vector<double> ranks, Each each) {
  std::sort(ranks.begin(), ranks.end());
  do {
    each(ranks);
  } while (std::next_permutation(ranks.begin(), ranks.end()));
}

double normal_tail(double z) {
  return std::erfc(std::abs(z) / std::sqrt(2.0));
}

}  // namespace

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  const double upper = *middle;
  return values.size() % 2 ? upper : (upper + *std::max_element(values.begin(), middle)) / 2;
}

double robust_deviation(const std::vector<double>& values) {
  const double middle = median_of(values);
  std::vector<double> distances;
  for (const double value : values) distances.push_back(std::abs(value - middle));
  return 1.4826 * median_of(std::move(distances));
}

double lag_correlation(const std::vector<double>& values) {
  if (values.size() < 4) return 0;
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  double products = 0, squares = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    squares += (values[i] - mean) * (values[i] - mean);
    if (i > 0) products += (values[i] - mean) * (values[i - 1] - mean);
  }
  return squares > 0 ? products / squares : 0;
}

std::vector<double> mid_ranks(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (std::size_t i = 0; i < order.size();) {
    std::size_t j = i;
    while (j < order.size() && values[order[j]] == values[order[i]]) ++j;
    for (const double rank = static_cast<double>(i + j + 1) / 2; i < j; ++i) ranks[order[i]] = rank;
  }
  return ranks;
}

ChangePoint change_point(const std::vector<double>& values, std::size_t fewest) {
  ChangePoint found;
  if (values.size() < 2 * fewest || values.size() < 2) return found;
  std::vector<double> ranks = mid_ranks(values);
  found.statistic = cusum(ranks, fewest, &found.at);
  const double bound = found.statistic * (1 - 1e-12);
  double as_large = 0, all = 0;
  if (ranks.size() <= kExact) {
    for_each_order(ranks, [&](const std::vector<double>& order) {
      all += 1, as_large += cusum(order, fewest, nullptr) >= bound;
    });
    found.p = as_large / all;
    return found;
  }
  const Generator random(1, "drift.series.shuffles");
  std::uint64_t draw = 0;
  for (int i = 0; i < kShuffles; ++i) {
    for (std::size_t j = ranks.size() - 1; j > 0; --j)
      std::swap(ranks[j],
                ranks[static_cast<std::size_t>(random.below(draw++, static_cast<std::int64_t>(j) + 1))]);
    as_large += cusum(ranks, fewest, nullptr) >= bound;
  }
  found.p = (as_large + 1) / (kShuffles + 1);
  return found;
}

Trend trend_of(const std::vector<double>& values, double correlation) {
  Trend trend;
  if (values.size() < 2) return trend;
  std::vector<double> slopes;
  for (std::size_t i = 0; i < values.size(); ++i)
    for (std::size_t j = i + 1; j < values.size(); ++j)
      slopes.push_back((values[j] - values[i]) / static_cast<double>(j - i));
  trend.slope = median_of(std::move(slopes));
  trend.s = kendall(values);
  if (values.size() <= kExact) {
    double as_large = 0, all = 0;
    for_each_order(mid_ranks(values), [&](const std::vector<double>& order) {
      all += 1, as_large += std::abs(kendall(order)) >= std::abs(trend.s);
    });
    trend.p = as_large / all;
    return trend;
  }
  const double n = static_cast<double>(values.size());
  double variance = n * (n - 1) * (2 * n + 5) / 18;
  std::vector<double> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  for (std::size_t i = 0; i < sorted.size();) {
    std::size_t j = i;
    while (j < sorted.size() && sorted[j] == sorted[i]) ++j;
    const double t = static_cast<double>(j - i);
    variance -= t * (t - 1) * (2 * t + 5) / 18, i = j;
  }
  if (variance <= 0) return trend;
  const double r = std::clamp(correlation, 0.0, 0.9);
  // Continuity: s changes by two where two values change places.
  trend.p = normal_tail(std::max(0.0, std::abs(trend.s) - 1) / std::sqrt(variance * (1 + r) / (1 - r)));
  return trend;
}

}  // namespace meshparity::drift

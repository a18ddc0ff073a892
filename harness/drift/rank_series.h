// Robust statistics of a short series of numbers: medians, a change-point by CUSUM on ranks, Mann and
// Kendall's trend. Nothing here knows about logprobs.
#pragma once

#include <cstddef>
#include <vector>

namespace meshparity::drift {

double median_of(std::vector<double> values);  // 0 of nothing
// 1.4826 times the median distance from the median: the standard deviation of Gaussian values.
double robust_deviation(const std::vector<double>& values);
// Correlation of neighbours, in [-1, 1]; 0 of fewer than four values or of equal ones.
double lag_correlation(const std::vector<double>& values);
// Ranks 1..n, ties share their mean.
std::vector<double> mid_ranks(const std::vector<double>& values);

// Where the mean rank changes most: values[at] is the first one behind the change.
struct ChangePoint {
  std::size_t at = 0;
  double statistic = 0;  // largest |sum of centred ranks before it| over its standard deviation
  double p = 1;          // of a statistic that large in any order of the values
};
// Each part has at least `fewest` values (p 1 where there are too few). p is exact up to seven values, else
// from 4999 shuffles drawn from a fixed seed: never below 1/5000.
ChangePoint change_point(const std::vector<double>& values, std::size_t fewest);

struct Trend {
  double slope = 0;  // Theil and Sen's: the median of the slopes of all pairs
  double s = 0;      // Mann and Kendall's: pairs that rise minus pairs that fall
  double p = 1;      // two-sided; exact up to seven values, else by the normal limit with ties
};
// `correlation`: of neighbours around the trend; a positive one widens the variance of s by (1 + r) / (1 -
// r).
Trend trend_of(const std::vector<double>& values, double correlation = 0);

}  // namespace meshparity::drift

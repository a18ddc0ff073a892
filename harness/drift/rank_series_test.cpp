// Statistics of short series against values worked out by hand or from tables.
#include "harness/drift/rank_series.h"

#include <catch2/catch.hpp>

#include "harness/types/generator.h"

namespace meshparity::drift::rank_series_test {

using Catch::WithinAbs;

TEST_CASE("medians, robust deviations, ranks with ties and correlation of neighbours") {
  CHECK(median_of({}) == 0);
  CHECK(median_of({3, 1, 2}) == 2);
  CHECK(median_of({4, 1, 2, 3}) == 2.5);
  CHECK_THAT(robust_deviation({1, 2, 3, 4, 1000}), WithinAbs(1.4826, 1e-12));
  CHECK(mid_ranks({10, 20, 10, 30}) == std::vector<double>{1.5, 3, 1.5, 4});
  CHECK_THAT(lag_correlation({1, -1, 1, -1, 1, -1}), WithinAbs(-5.0 / 6, 1e-12));
  CHECK(lag_correlation({1, 2, 3}) == 0);
}

TEST_CASE("a change-point of six values has the probability that counting gives") {
  // {1,2,3 | 4,5,6}: of 720 orders 2 * 3! * 3! put the three smallest or largest in front, and no other split
  // of at least two reaches the statistic 4.5 / sqrt(3 * 3 * 7 / 12).
  const ChangePoint change = change_point({1, 2, 3, 40, 50, 60}, 2);
  CHECK(change.at == 3);
  CHECK_THAT(change.statistic, WithinAbs(4.5 / std::sqrt(9.0 * 7 / 12), 1e-12));
  CHECK_THAT(change.p, WithinAbs(72.0 / 720, 1e-12));
  CHECK(change_point({5, 5, 5, 5, 5, 5}, 2).p == 1);
  CHECK(change_point({1, 2, 3}, 2).p == 1);  // too few: no claim
}

TEST_CASE("a change-point of many values is found where it is, and hardly ever where there is none") {
  const Generator random(4, "rank_series_test");
  std::vector<double> values;
  for (std::uint64_t i = 0; i < 40; ++i) values.push_back(random.normal(i) + (i < 25 ? 0 : 4));
  const ChangePoint change = change_point(values, 2);
  CHECK(change.at == 25);
  CHECK(change.p <= 0.001);
  int claimed = 0;
  for (std::uint64_t series = 1; series <= 200; ++series) {
    std::vector<double> noise;
    for (std::uint64_t i = 0; i < 12; ++i) noise.push_back(random.normal(1000 * series + i));
    claimed += change_point(noise, 2).p <= 0.05;
  }
  CHECK(claimed >= 1);   // it is no constant
  CHECK(claimed <= 22);  // expected 10; 22 has probability 3e-4
}

TEST_CASE(
    "Mann and Kendall's trend: exact for few values, the normal limit for many, wider where correlated") {
  // Five rising values: one of 120 orders each way.
  CHECK_THAT(trend_of({1, 2, 3, 4, 5}).p, WithinAbs(2.0 / 120, 1e-12));
  CHECK(trend_of({1, 2, 3, 4, 5}).s == 10);
  // Slopes -1, 1/2, 1, 4/3, 2, 3, 399/4, 397/3, 199, 395: the middle two are 2 and 3.
  CHECK(trend_of({1, 3, 2, 5, 400}).slope == 2.5);
  CHECK(trend_of({7, 7, 7, 7, 7, 7, 7, 7, 7}).p == 1);
  std::vector<double> rising;
  for (int i = 0; i < 10; ++i) rising.push_back(i);
  // s = 45, variance 125: z = 44 / sqrt(125) = 3.935.
  CHECK_THAT(trend_of(rising).p, WithinAbs(8.3e-5, 2e-6));
  CHECK(trend_of(rising, 0.5).p > 10 * trend_of(rising).p);
  CHECK(trend_of(rising, -0.5).p == trend_of(rising).p);
}

}  // namespace meshparity::drift::rank_series_test

// The common factor of many tensors, and when they have none.
#include "harness/compare/projection.h"

#include <catch2/catch.hpp>

#include "harness/types/error.h"

namespace meshparity::compare::projection_test {
namespace {

Projection of(const std::vector<std::vector<double>>& got, const std::vector<std::vector<double>>& want) {
  Projection projection;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const auto tensor = [&](const std::vector<double>& values) {
      return HostTensor::from(DType::float64, {static_cast<std::int64_t>(values.size())}, values);
    };
    projection.add(tensor(got[i]).view(), tensor(want[i]).view());
  }
  return projection;
}

}  // namespace

TEST_CASE("a common factor is found over tensors of any size, and its sign") {
  const std::vector<std::vector<double>> want = {{1, 2, 3}, {}, {1e-3}, {-40, 5}};
  CHECK(of(want, want).factor() == 1);
  const Projection half = of({{0.5, 1, 1.5}, {}, {5e-4}, {-20, 2.5}}, want);
  CHECK(half.factor() == Approx(0.5).epsilon(1e-15));
  CHECK(scale_words(half) == "all gradients together are 0.5 times the expected ones");
  CHECK(of({{-1, -2, -3}, {}, {-1e-3}, {40, -5}}, want).factor() == -1);
}

TEST_CASE("what is no multiple is not called one") {
  const Projection turned = of({{1, 0}, {1}}, {{0, 1}, {1}});
  CHECK(turned.factor() == 0.5);
  CHECK(scale_words(turned) ==
        "all gradients together are no multiple of the expected ones: factor 0.5, cosine 0.5");
}

TEST_CASE("nothing expected and something there is no number") {
  CHECK_FALSE(std::isfinite(of({{1}}, {{0}}).factor()));
  CHECK(std::isnan(of({{NAN}}, {{1}}).factor()));
  Projection projection;
  const HostTensor one = HostTensor::from(DType::float64, {1}, std::vector<double>{1}),
                   two = HostTensor::from(DType::float64, {2}, std::vector<double>{1, 2});
  CHECK_THROWS_AS(projection.add(one.view(), two.view()), InputError);
}

}  // namespace meshparity::compare::projection_test

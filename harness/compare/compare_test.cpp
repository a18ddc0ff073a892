// The comparer judges every number the gate prints, so it is judged first: metrics against plain loops in
// extended precision, and every way a comparison has been known to lie.
#include "harness/compare/compare.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "harness/compare/kernel.h"
#include "harness/types/generator.h"

namespace meshparity::compare {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
const double kNaN = std::numeric_limits<double>::quiet_NaN();

HostTensor doubles(Shape shape, std::vector<double> values) {
  return HostTensor::from(DType::float64, std::move(shape), values);
}

HostTensor random(std::int64_t n, std::uint64_t seed) {
  const Generator generator(seed, "compare_test");
  HostTensor t = HostTensor::zeros(DType::float64, {n});
  for (std::int64_t i = 0; i < n; ++i) t.as<double>()[i] = generator.normal(i);
  return t;
}

CheckResult verdict(const HostTensor& got, const HostTensor& want, double norm, double element,
                    std::vector<std::int64_t> exact_zero = {}) {
  const Bound bound{norm, element, "row", "why", std::move(exact_zero)};
  return judge("grads", "t", measure(got.view(), want.view()), bound, got.view(), want.view());
}

}  // namespace

TEST_CASE("metrics equal plain loops in extended precision for any length") {
  for (const std::int64_t n : {1, 2, 7, 8, 9, 1023, 1024, 1025, 5000}) {
    INFO(n);
    HostTensor want = random(n, 1), got = want;
    for (std::int64_t i = 0; i < n; ++i)
      if (i % 3 == 0) got.as<double>()[i] *= 1.0 + 1e-9 * static_cast<double>(i % 11);
    long double diff = 0, want_sum = 0, got_sum = 0, dot = 0;
    double largest = 0, want_max = 0;
    std::int64_t worst = 0, differ = 0;
    Histogram histogram{};
    for (std::int64_t i = 0; i < n; ++i) {
      const double g = got.as<double>()[i], w = want.as<double>()[i], d = std::fabs(g - w);
      diff += static_cast<long double>(d) * d, want_sum += static_cast<long double>(w) * w;
      got_sum += static_cast<long double>(g) * g, dot += static_cast<long double>(g) * w;
      if (d > largest) largest = d, worst = i;
      want_max = std::max(want_max, std::fabs(w));
      differ += g != w;
      int bucket = d == 0 ? 0 : 1;
      while (d != 0 && bucket < 31 && d >= std::pow(10.0, bucket - 18)) ++bucket;
      ++histogram[bucket];
    }
    const Metrics m = measure(got.view(), want.view());
    REQUIRE(m.comparable);
    CHECK(m.elements == n);
    CHECK(m.max_abs == largest);
    CHECK(m.worst == worst);
    CHECK(m.want_max == want_max);
    CHECK(m.differ_bitwise == differ);
    CHECK(m.histogram == histogram);
    const auto close = [](double got_value, long double want_value) {
      return std::fabs(got_value - static_cast<double>(want_value)) <=
             1e-14 * std::fabs(static_cast<double>(want_value));
    };
    CHECK(close(m.diff_norm, std::sqrt(diff)));
    CHECK(close(m.want_norm, std::sqrt(want_sum)));
    CHECK(close(m.got_norm, std::sqrt(got_sum)));
    CHECK(close(m.dot, dot));
  }
}

TEST_CASE("a sum of many terms keeps the small ones") {
  // One large term first: added naively, 4 million terms of 1e-16 would all be lost, 2e-10 of the norm. Here
  // only the 255 in its own lane of its own block may be.
  const std::int64_t n = std::int64_t{1} << 22;
  HostTensor want = HostTensor::zeros(DType::float64, {n}), got = want;
  for (std::int64_t i = 0; i < n; ++i) got.as<double>()[i] = i == 0 ? 1.0 : 1e-8;
  const double exact = std::sqrt(1.0 + static_cast<double>(n - 1) * 1e-16);
  CHECK(std::fabs(measure(got.view(), want.view()).diff_norm - exact) <= 2e-14);
}

TEST_CASE("every power of ten opens its own bucket") {
  CHECK(histogram_bucket(0.0) == 0);
  CHECK(histogram_bucket(5e-324) == 1);
  CHECK(histogram_bucket(1e-310) == 1);
  for (int k = -17; k <= 12; ++k) {
    const double power = std::strtod(("1e" + std::to_string(k)).c_str(), nullptr);
    CHECK(histogram_bucket(std::nextafter(power, 0.0)) == k + 18);
    CHECK(histogram_bucket(power) == std::min(k + 19, 31));
  }
  CHECK(histogram_bucket(1e300) == 31);
  CHECK(histogram_bucket(kInf) == 31);
  CHECK(histogram_bucket(kNaN) == 31);
}

TEST_CASE("not a number never passes, wherever it stands") {
  for (const std::int64_t n : {3, 1024, 3000})
    for (const std::int64_t at : {std::int64_t{0}, n / 2, n - 1})
      for (const double bad : {kNaN, -kNaN, kInf, -kInf}) {
        const HostTensor want = random(n, 2);
        HostTensor got = want;
        got.as<double>()[at] = bad;
        const Metrics m = measure(got.view(), want.view());
        CHECK(m.got_nonfinite == 1);
        CHECK(m.worst == at);
        CHECK(m.max_abs == 0);
        CHECK(std::isfinite(m.got_norm));
        CHECK(m.histogram[31] == 1);
        CHECK(m.histogram[0] == n - 1);
        for (const double bound : {0.0, 1.0, kInf}) {
          const auto r = verdict(got, want, bound, bound);
          CHECK(r.state == State::invalid);
          CHECK(r.nonfinite == 1);
        }
        // Equal bits on both sides do not make it a number.
        CHECK(verdict(got, got, kInf, kInf).state == State::invalid);
        CHECK(verdict(want, got, kInf, kInf).state == State::invalid);
      }
}

TEST_CASE("a bound that is not a number accepts nothing") {
  const HostTensor t = random(10, 3);
  CHECK(verdict(t, t, kNaN, 1.0).state == State::fail);
  CHECK(verdict(t, t, 1.0, kNaN).state == State::fail);
}

TEST_CASE("shape and dtype are classified before any arithmetic") {
  const HostTensor want = doubles({2, 3}, {1, 2, 3, 4, 5, 6});
  HostTensor got = want;
  got.shape = {3, 2};
  CHECK(verdict(got, want, kInf, kInf).reason == "shape [3,2], expected [2,3]");
  got.shape = {6};
  CHECK(verdict(got, want, kInf, kInf).state == State::invalid);
  CHECK(verdict(HostTensor::zeros(DType::int64, {2, 3}), want, kInf, kInf).reason ==
        "dtype int64, expected float64");
  CHECK(verdict(HostTensor::zeros(DType::float32, {2, 3}), want, kInf, kInf).state == State::pass);
  CHECK(verdict(want, HostTensor::zeros(DType::float32, {2, 3}), kInf, kInf).state == State::invalid);
  CHECK(verdict(HostTensor::zeros(DType::float16, {1}), HostTensor::zeros(DType::bfloat16, {1}), kInf, kInf)
            .state == State::invalid);
  CHECK(
      verdict(HostTensor::zeros(DType::int32, {1}), HostTensor::zeros(DType::int64, {1}), kInf, kInf).state ==
      State::invalid);
}

TEST_CASE("a tensor without elements is not trusted") {
  const HostTensor empty = HostTensor::zeros(DType::float64, {0, 4});
  CHECK(verdict(empty, empty, 0, 0).state == State::untrusted);
}

TEST_CASE("both bounds must hold, at the bound is inside") {
  const HostTensor want = doubles({4}, {0, 0, 0, 0}), got = doubles({4}, {1, 1, 1, 1});
  CHECK(verdict(got, want, 2.0, 1.0).state == State::pass);
  CHECK(verdict(got, want, 2.0, 1.0).bound_used == 1.0);
  CHECK(verdict(got, want, 1.999, 1.0).state == State::fail);
  CHECK(verdict(got, want, 2.0, 0.999).state == State::fail);
  CHECK(verdict(got, want, 2.0, 0.5).bound_used == 2.0);
  CHECK(verdict(got, want, 0.0, 0.0).state == State::fail);
  CHECK(verdict(want, want, 0.0, 0.0).state == State::pass);
  CHECK(verdict(want, want, 0.0, 0.0).bound_used == 0.0);
}

TEST_CASE("one wrong element among many is not averaged away") {
  const HostTensor want = random(100000, 4);
  HostTensor got = want;
  got.as<double>()[777] += 1e-9;
  const auto r = verdict(got, want, 1e-8, 1e-10);
  CHECK(r.state == State::fail);
  CHECK(r.outside == 1);
  CHECK(r.where == "[777]");
  CHECK(r.got == got.as<double>()[777]);
  CHECK(r.want == want.as<double>()[777]);
}

TEST_CASE("a slice nothing reaches must be exactly zero") {
  const HostTensor want = doubles({4, 2}, {0, 0, 1, 0, -0.0, 0, 0, 0});
  HostTensor got = doubles({4, 2}, {0, -0.0, 1, 1e-20, 0, 0, 1e-20, 0});
  // Row 3 is zero but not listed: the bound judges it.
  CHECK(verdict(got, want, 1e-12, 1e-12, {0, 2}).state == State::pass);
  got.as<double>()[5] = 1e-300;
  CHECK(verdict(got, want, 1e-12, 1e-12).state == State::pass);
  const auto r = verdict(got, want, 1e-12, 1e-12, {0, 2});
  CHECK(r.state == State::fail);
  CHECK(r.where == "[2,1]");
  CHECK(r.worst == 5);
  CHECK(r.outside == 1);
  CHECK(r.reason == "nothing reaches index 2 of dimension 0, so it must be exactly zero");
}

TEST_CASE("numbers whose squares leave the range of double are still compared") {
  for (const double scale : {1e-200, 1e-310, 1e200}) {
    INFO(scale);
    const HostTensor want = doubles({2}, {3 * scale, 0}), got = doubles({2}, {3 * scale, 4 * scale});
    const Metrics m = measure(got.view(), want.view());
    CHECK(m.want_norm == Approx(3 * scale).epsilon(1e-4));
    CHECK(m.diff_norm == Approx(4 * scale).epsilon(1e-4));
    CHECK(m.got_norm == Approx(5 * scale).epsilon(1e-4));
    CHECK(verdict(got, want, 0, 0).state == State::fail);
  }
  const HostTensor huge = doubles({1}, {1.7e308}), opposite = doubles({1}, {-1.7e308});
  CHECK(verdict(huge, opposite, 1e308, 1e308).state == State::fail);
}

TEST_CASE("a narrower dump is compared with the wider golden value by value") {
  const HostTensor want = random(3000, 5);
  HostTensor got = HostTensor::zeros(DType::float32, {3000});
  for (int i = 0; i < 3000; ++i) got.as<float>()[i] = static_cast<float>(want.as<double>()[i]);
  const Metrics m = measure(got.view(), want.view());
  REQUIRE(m.comparable);
  CHECK(m.diff_norm <= 0x1p-24 * m.want_norm);
  CHECK(m.diff_norm > 0);
  const Metrics same = measure(got.view(), got.view());
  CHECK(same.differ_bitwise == 0);
  CHECK(same.want_norm == Approx(m.want_norm).epsilon(1e-7));
  HostTensor half = HostTensor::zeros(DType::bfloat16, {3000});
  for (int i = 0; i < 3000; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, got.as<float>() + i, 4);
    half.as<std::uint16_t>()[i] = static_cast<std::uint16_t>(bits >> 16);
  }
  CHECK(measure(half.view(), want.view()).diff_norm <= 0x1p-7 * m.want_norm);
}

TEST_CASE("an unaligned view is read as it stands") {
  const HostTensor want = random(100, 6);
  std::vector<std::byte> shifted(801);
  std::memcpy(shifted.data() + 1, want.bytes.data(), 800);
  const TensorView got{DType::float64, {100}, shifted.data() + 1};
  CHECK(measure(got, want.view()).differ_bitwise == 0);
}

TEST_CASE("integers are equal or not, even where doubles cannot tell") {
  const std::int64_t big = (std::int64_t{1} << 53);
  const HostTensor want = HostTensor::from_int64({2}, {big, 1}),
                   got = HostTensor::from_int64({2}, {big + 1, 1});
  const Metrics m = measure(got.view(), want.view());
  CHECK(m.differ_bitwise == 1);
  CHECK(m.max_abs >= 1);
  CHECK(verdict(got, want, 0, 0).state == State::fail);
  CHECK(verdict(want, want, 0, 0).state == State::pass);
}

TEST_CASE("the failing block says where the elements lie") {
  HostTensor want = HostTensor::zeros(DType::float64, {6, 8}), got = want;
  SECTION("columns") {
    for (int row = 0; row < 6; ++row)
      for (int column = 4; column < 6; ++column) got.as<double>()[row * 8 + column] = 1;
    CHECK(verdict(got, want, 0.1, 0.1).detail.at(0) ==
          "where   12 of 48 (25 %) outside, all in columns 4..5 of 8");
  }
  SECTION("one row, every other column") {
    for (const int column : {1, 3, 5}) got.as<double>()[2 * 8 + column] = 1;
    CHECK(verdict(got, want, 0.1, 0.1).detail.at(0) ==
          "where   3 of 48 (6.25 %) outside, all in row 2 of 6, every 2th of columns 1..5 of 8");
  }
  SECTION("everywhere") {
    for (int i = 0; i < 48; ++i) got.as<double>()[i] = 1;
    CHECK(verdict(got, want, 0.1, 0.1).detail.at(0) ==
          "where   48 of 48 (100 %) outside, in all rows and columns");
  }
  const auto r = verdict(got, want, 0.1, 0.1);
  CHECK(r.detail.back() == "bound   tolerance row row: why");
}

TEST_CASE("the comparer keeps up with memory", "[.speed]") {
  const auto b = compare_bandwidth(std::size_t{256} << 20);
  WARN("measure " << b.measure_gb_s << " GB/s, read " << b.read_gb_s
                  << " GB/s: " << b.measure_gb_s / b.read_gb_s);
}

}  // namespace meshparity::compare

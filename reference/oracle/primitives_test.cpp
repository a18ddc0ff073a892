// Proves the oracle on numbers a reader can check by hand: it judges the reference, so nothing but arithmetic
// judges it.
#include <catch2/catch.hpp>

#include "reference/oracle/attention.h"
#include "reference/oracle/conv.h"
#include "reference/oracle/cross_entropy.h"
#include "reference/oracle/delta_rule.h"
#include "reference/oracle/feed_forward.h"
#include "reference/oracle/norms.h"
#include "reference/oracle/rope.h"
#include "reference/oracle/router.h"

namespace meshparity::oracle {
namespace {

constexpr double kTiny = 1e-15;
Approx near(double value) {
  return Approx(value).epsilon(0).margin(kTiny * std::max(1.0, std::abs(value)));
}

Vector<double> vector(std::initializer_list<double> values) {
  Vector<double> v(static_cast<Eigen::Index>(values.size()));
  std::copy(values.begin(), values.end(), v.begin());
  return v;
}

Matrix<double> matrix(Eigen::Index columns, std::initializer_list<double> values) {
  Matrix<double> m(static_cast<Eigen::Index>(values.size()) / columns, columns);
  std::copy(values.begin(), values.end(), m.data());
  return m;
}

}  // namespace

TEST_CASE("a dual carries the derivative of every operation it knows") {
  const Dual x(2.0, 1.0);

  CHECK((x * x * x).slope == near(12));
  CHECK((Dual(1) / x).slope == near(-0.25));
  CHECK((x - 3 + -x).slope == 0);
  CHECK(exp(x).slope == near(std::exp(2.0)));
  CHECK(log(x).slope == near(0.5));
  CHECK(log1p(x).slope == near(1.0 / 3));
  CHECK(sqrt(x).slope == near(1 / (2 * std::sqrt(2.0))));
  CHECK(sigmoid(Dual(0, 1)).slope == near(0.25));
  CHECK(silu(Dual(0, 1)).slope == near(0.5));
  CHECK(softplus(Dual(0, 1)).slope == near(0.5));
  CHECK(softplus(Dual(21, 1)).slope == 1);
}

TEST_CASE("scalar functions hold where exponentials would overflow") {
  CHECK(sigmoid(-1000.0) == 0);
  CHECK(sigmoid(1000.0) == 1);
  CHECK(softplus(1000.0) == 1000);
  CHECK(softplus(-1000.0) == 0);
  CHECK(log_sum_exp(vector({1000, 1000})) == near(1000 + std::log(2.0)));
}

TEST_CASE("norms of (3, 4)") {
  // Mean square 12.5; eps 3.5 makes the root 4.
  const Vector<double> x = vector({3, 4});

  const Vector<double> y = rms_norm(x, vector({1, -0.5}), 3.5);
  CHECK(y[0] == near(1.5));
  CHECK(y[1] == near(0.5));

  const Vector<double> gated = gated_rms_norm(x, vector({0, 1000}), vector({1, 2}), 3.5);
  CHECK(gated[0] == 0);
  CHECK(gated[1] == near(2000));

  const Vector<double> unit = l2_norm(vector({3, 4}));
  CHECK(unit[0] == near(3 / std::sqrt(25.000001)));
  CHECK(unit[1] == near(4 / std::sqrt(25.000001)));
}

TEST_CASE("interleaved axes are those of the published section") {
  const std::vector<std::int64_t> section = {11, 11, 10};
  std::array<int, 3> count = {};
  for (std::int64_t i = 0; i < 32; ++i) ++count[axis_of_pair(i, section)];

  CHECK(count == std::array<int, 3>{11, 11, 10});
  CHECK(axis_of_pair(30, section) == 0);
  CHECK(axis_of_pair(31, section) == 1);
  CHECK(axis_of_pair(29, section) == 2);
  CHECK(axis_of_pair(5, {3, 3, 1}) == 0);
}

TEST_CASE("rotation turns pair i with pair i + R/2 and leaves the rest") {
  // theta = 16, R = 4: frequencies 1 and 1/4, both on the time axis of an empty section.
  const Vector<double> y = rotated(vector({1, 2, 3, 4, 5}), {2, 70, 90}, 4, 16.0, {2, 0, 0});

  CHECK(y[0] == near(1 * std::cos(2.0) - 3 * std::sin(2.0)));
  CHECK(y[2] == near(1 * std::sin(2.0) + 3 * std::cos(2.0)));
  CHECK(y[1] == near(2 * std::cos(0.5) - 4 * std::sin(0.5)));
  CHECK(y[3] == near(2 * std::sin(0.5) + 4 * std::cos(0.5)));
  CHECK(y[4] == 5);
}

TEST_CASE("the last tap of the convolution meets the current token") {
  const Matrix<double> y = causal_conv_silu(matrix(1, {1, 10, 100}), matrix(2, {2, 3}));

  CHECK(y(0, 0) == near(silu(3.0)));
  CHECK(y(1, 0) == near(silu(32.0)));
  CHECK(y(2, 0) == near(silu(320.0)));
}

TEST_CASE("two tokens of the delta rule") {
  // alpha = 1/2 throughout. S_1 = k_1 v_1 = 4. Token 2: decayed 2, residual 6 - 2 = 4, S_2 = 2 + 0.25 * 4
  // = 3.
  const Matrix<double> k = matrix(1, {1, 1}), v = matrix(1, {4, 6}), q = matrix(1, {1, 5});
  const Vector<double> g = vector({std::log(0.5), std::log(0.5)}), beta = vector({1, 0.25});

  const Matrix<double> o = gated_delta_rule(q, k, v, g, beta);
  CHECK(o(0, 0) == near(4));
  CHECK(o(1, 0) == near(15));
  CHECK(log_decay(0.0, 0.0, 0.0) == near(-std::log(2.0)));
  CHECK(log_decay(20.0, std::log(2.0), 1.0) == near(-42));
}

TEST_CASE("attention over keys of equal score is their mean") {
  const Matrix<double> q = matrix(1, {0, 0, 2}), k = matrix(1, {1, 5, 0}), v = matrix(1, {3, 5, 7});

  const Attended<double> result = causal_attention<double>(q, k, v);
  CHECK(result.out(0, 0) == near(3));
  CHECK(result.out(1, 0) == near(4));
  CHECK(result.lse[0] == near(0));
  CHECK(result.lse[1] == near(std::log(2.0)));
  CHECK(result.lse[2] == near(std::log(std::exp(2.0) + std::exp(10.0) + 1)));
}

TEST_CASE("the router renormalises over what it chose") {
  const Route<double> chosen = route(vector({0, std::log(3.0), -5, std::log(6.0)}), 2);

  CHECK(chosen.experts == std::vector<Eigen::Index>{3, 1});
  CHECK(chosen.weights[0] == near(2.0 / 3));
  CHECK(chosen.weights[1] == near(1.0 / 3));
}

TEST_CASE("SwiGLU of one unit, and the log-probability of a uniform guess") {
  CHECK(swiglu(vector({2}), matrix(1, {3}), matrix(1, {5}), matrix(1, {7}))[0] == near(7 * silu(6.0) * 10));
  CHECK(label_logprob(vector({5, 5, 5, 5}), 2) == near(-std::log(4.0)));
}

}  // namespace meshparity::oracle

// Rotary positions: each pair is one complex number, turned by its angle. Source: qwen35.md 1.3 and 1.4.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "reference/oracle/dual.h"

namespace meshparity::oracle {

// Time, height and width of a token.
using Position = std::array<std::int64_t, 3>;

// The axis a pair of the interleaved layout reads: 0 time, 1 height, 2 width.
inline std::size_t axis_of_pair(std::int64_t pair, const std::vector<std::int64_t>& section) {
  const std::size_t turn = static_cast<std::size_t>(pair % 3);
  if (turn == 0) return 0;
  return pair / 3 < section.at(turn) ? turn : 0;
}

// One head of one token. Pair i is (x_i, x_(i + R/2)), angle = position * theta^(-2i/R).
template <class Scalar>
Vector<Scalar> rotated(Vector<Scalar> x, const Position& position, std::int64_t rotary_dim, double theta,
                       const std::vector<std::int64_t>& section) {
  const std::int64_t pairs = rotary_dim / 2;
  for (std::int64_t i = 0; i < pairs; ++i) {
    const double where = static_cast<double>(position[axis_of_pair(i, section)]);
    const double angle = where / std::pow(theta, static_cast<double>(i) / static_cast<double>(pairs));
    const Scalar real = x[i], imaginary = x[i + pairs];
    x[i] = real * Scalar(std::cos(angle)) - imaginary * Scalar(std::sin(angle));
    x[i + pairs] = real * Scalar(std::sin(angle)) + imaginary * Scalar(std::cos(angle));
  }
  return x;
}

}  // namespace meshparity::oracle

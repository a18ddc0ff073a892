// The vision tower's primitives, one patch at a time. Source: qwen35.md 1.8.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

#include "reference/oracle/activations.h"
#include "reference/oracle/dual.h"

namespace meshparity::oracle {

// Where a patch lies in its image of `height` x `width` patches.
struct PatchPlace {
  std::int64_t frame, row, column, height, width;
};

// Of every patch of an image (frames, height, width), in the order in which patches are stored.
inline std::vector<PatchPlace> patch_places(const std::array<std::int64_t, 3>& grid, std::int64_t merge) {
  std::vector<PatchPlace> places;
  for (std::int64_t frame = 0; frame < grid[0]; ++frame)
    for (std::int64_t top = 0; top < grid[1]; top += merge)
      for (std::int64_t left = 0; left < grid[2]; left += merge)
        for (std::int64_t row = top; row < top + merge; ++row)
          for (std::int64_t column = left; column < left + merge; ++column)
            places.push_back({frame, row, column, grid[1], grid[2]});
  return places;
}

// The square table [side*side, V] read between its four entries around the patch, corners on corners.
template <class Scalar>
Vector<Scalar> position_at(const Matrix<Scalar>& table, const PatchPlace& place) {
  const auto side = static_cast<std::int64_t>(std::lround(std::sqrt(static_cast<double>(table.rows()))));
  const auto source = [&](std::int64_t index, std::int64_t size) {
    return size < 2
               ? 0.0
               : static_cast<double>(index) * static_cast<double>(side - 1) / static_cast<double>(size - 1);
  };
  const double y = source(place.row, place.height), x = source(place.column, place.width);
  const auto top = static_cast<std::int64_t>(y), left = static_cast<std::int64_t>(x);
  const std::int64_t bottom = std::min(top + 1, side - 1), right = std::min(left + 1, side - 1);
  const double down = y - static_cast<double>(top), across = x - static_cast<double>(left);
  const auto entry = [&](std::int64_t row, std::int64_t column, double weight) -> Vector<Scalar> {
    return table.row(row * side + column).transpose() * Scalar(weight);
  };
  return entry(top, left, (1 - down) * (1 - across)) + entry(top, right, (1 - down) * across) +
         entry(bottom, left, down * (1 - across)) + entry(bottom, right, down * across);
}

// One head of one patch: number i and number i + d/2 are a complex number, turned by the row times a
// frequency in the first half of them and by the column times the same frequencies in the second.
template <class Scalar>
Vector<Scalar> axially_rotated(Vector<Scalar> x, const PatchPlace& place) {
  const Eigen::Index pairs = x.size() / 2, frequencies = pairs / 2;
  for (Eigen::Index i = 0; i < pairs; ++i) {
    const auto where = static_cast<double>(i < frequencies ? place.row : place.column);
    const double share = static_cast<double>(i % frequencies) / static_cast<double>(frequencies);
    const auto turn = std::polar(1.0, where / std::pow(1e4, share));
    const Scalar real = x[i], imaginary = x[i + pairs];
    x[i] = real * Scalar(turn.real()) - imaginary * Scalar(turn.imag());
    x[i + pairs] = real * Scalar(turn.imag()) + imaginary * Scalar(turn.real());
  }
  return x;
}

// Attention of one head over the patches of one frame, every patch to every patch. q, k, v [P, d].
template <class Scalar>
Matrix<Scalar> frame_attention(const Matrix<Scalar>& q, const Matrix<Scalar>& k, const Matrix<Scalar>& v) {
  using std::exp;
  const Scalar scale = 1 / std::sqrt(static_cast<double>(q.cols()));
  Matrix<Scalar> out = Matrix<Scalar>::Zero(q.rows(), v.cols());
  for (Eigen::Index p = 0; p < q.rows(); ++p) {
    const Vector<Scalar> scores = k * q.row(p).transpose() * scale;
    const Scalar lse = log_sum_exp(scores);
    for (Eigen::Index s = 0; s < k.rows(); ++s) out.row(p) += v.row(s) * exp(scores[s] - lse);
  }
  return out;
}

}  // namespace meshparity::oracle

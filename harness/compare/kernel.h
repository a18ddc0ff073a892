// The inner loop of the comparer: everything one block of doubles contributes, in one pass.
#pragma once

#include <cstddef>
#include <cstdint>

#include "harness/compare/compare.h"

namespace meshparity::compare {

// Elements per block: got, want and their differences (24 KiB) stay in the first-level cache between the two
// loops.
constexpr std::size_t kBlock = 1024;

struct BlockSums {
  double diff_squares = 0, want_squares = 0, got_squares = 0, dot = 0;
  double max_abs = 0, want_max = 0;
  std::int64_t differ_bitwise = 0;
  bool nonfinite = false;  // some got or want is NaN or Inf: the sums are not to be used
};

// Sums over n <= kBlock elements; |got - want| of each goes to `differences`.
BlockSums block_sums(const double* got, const double* want, std::size_t n, double* differences);
// Adds n <= kBlock differences, none of them NaN and the largest `max_abs`, to the histogram.
void block_histogram(const double* differences, std::size_t n, double max_abs, Histogram& histogram);
// Bucket of one difference: 0 = exactly 0, 1 = below 1e-17, ..., 31 = 1e12 and above, Inf and NaN.
int histogram_bucket(double difference);

// By its bits, so that no compiler flag can fold the question away.
inline bool is_nonfinite(double x) {
  std::uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return (bits & 0x7FF0000000000000ull) == 0x7FF0000000000000ull;
}

}  // namespace meshparity::compare

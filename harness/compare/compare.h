// The comparer: one pass over got and want, all metrics, verdict in accept form (ok = diff <= bound) so NaN
// fails. NaN, Inf, shape and dtype are classified before arithmetic.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "harness/types/tensor.h"
#include "harness/types/verdict.h"

namespace meshparity::compare {

// Decimal histogram of |got - want|: bucket 0 = exactly 0, then <1e-17, <1e-16, ..., last = larger or
// nonfinite.
using Histogram = std::array<std::int64_t, 32>;

struct Metrics {
  bool comparable = false;  // same shape, both dtypes floating (or both the same integer type)
  std::string invalid;      // why not comparable
  std::int64_t elements = 0;
  std::int64_t got_nonfinite = 0, want_nonfinite = 0;
  double max_abs = 0;       // over finite pairs
  std::int64_t worst = -1;  // flat index of max_abs (or of the first nonfinite got)
  double worst_got = 0, worst_want = 0;
  double diff_norm = 0, want_norm = 0, got_norm = 0;  // L2, accumulated in double with pairwise or Kahan care
  double want_max = 0;
  double dot = 0;  // <got, want>: cosine and scale for diagnosis
  std::int64_t differ_bitwise = 0;
  Histogram histogram{};
};

// Both views contiguous; dtypes may differ only where a floating got is narrower than want (a float32 dump
// against a float64 golden). Runs near memory bandwidth for float64 and float32.
Metrics measure(const TensorView& got, const TensorView& want);

// A bound is one number on the L2 norm of the difference, plus one on each element; both must hold. Derived
// by harness/tolerance.
struct Bound {
  double norm = 0;     // ||got - want|| <= norm
  double element = 0;  // every |got - want| <= element
  std::string row;     // tolerance row: "grads/float64"
  std::string why;     // formula with its numbers
  // Slices of dimension 0 that nothing reaches: every element of got must be exactly zero there.
  std::vector<std::int64_t> exact_zero_slices;
};

// State, bound_used, worst place and detail from metrics and bound. `got_view`/`want_view` are used for the
// failing-case block only (how many outside, in which rows and columns they lie).
CheckResult judge(const std::string& check, const std::string& tensor, const Metrics& metrics,
                  const Bound& bound, const TensorView& got, const TensorView& want);

// Memory bandwidth of `measure` beside a plain read of the same two float64 arrays, `bytes` in all, best of
// three, GB/s (10^9 bytes per second). For `bench compare`.
struct Bandwidth {
  double measure_gb_s = 0;
  double read_gb_s = 0;
};
Bandwidth compare_bandwidth(std::size_t bytes);

}  // namespace meshparity::compare

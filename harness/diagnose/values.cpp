// What the wrong values themselves say: not finite, zero, one step old, or rounded to a narrower format.
#include <cmath>
#include <cstring>

#include "harness/diagnose/error_shape.h"

namespace meshparity::diagnose {
namespace {

bool nonfinite(double x) {
  std::uint64_t bits;
  std::memcpy(&bits, &x, 8);
  return (bits & 0x7FF0000000000000ull) == 0x7FF0000000000000ull;
}

// Bits below a narrower format's mantissa are zero: 45 of a double for bfloat16, 42 for float16, 29 for
// float32.
bool on_grid(double x, int low_bits) {
  std::uint64_t bits;
  std::memcpy(&bits, &x, 8);
  return (bits & ((std::uint64_t{1} << low_bits) - 1)) == 0;
}

// Share of nonzero values that a format with `low_bits` fewer mantissa bits could hold.
double grid_share(const Values& values, int low_bits, std::int64_t& nonzero) {
  std::int64_t on = 0;
  nonzero = 0;
  for (const double x : values) {
    if (x == 0 || nonfinite(x)) continue;
    ++nonzero;
    on += on_grid(x, low_bits);
  }
  return nonzero ? static_cast<double>(on) / static_cast<double>(nonzero) : 0;
}

void find_precision(const ErrorShape& shape, std::vector<Cause>& causes) {
  struct Format {
    const char* name;
    DType dtype;
    int low_bits;
  };
  for (const Format f : {Format{"bfloat16", DType::bfloat16, 45}, Format{"float16", DType::float16, 42},
                         Format{"float32", DType::float32, 29}}) {
    if (dtype_size(f.dtype) >= dtype_size(shape.suspect.got.dtype)) continue;
    std::int64_t nonzero = 0, want_nonzero = 0;
    // Four values can lie on float32's grid by accident only with probability 2^-116.
    if (grid_share(shape.got, f.low_bits, nonzero) < 1 || nonzero < 4) continue;
    if (grid_share(shape.want, f.low_bits, want_nonzero) > 0.5) continue;
    const bool rounding = shape.difference <= 4 * unit_roundoff(f.dtype) * shape.want_norm;
    causes.push_back(
        {std::string("rounded to ") + f.name,
         "all " + std::to_string(nonzero) + " nonzero values are " + f.name + " numbers, want's are not",
         rounding ? 0.97 : 0.6});
    return;
  }
  const double relative = shape.want_norm > 0 ? shape.difference / shape.want_norm : 0;
  const auto n = static_cast<double>(shape.want.size());
  // Spread like rounding: no element holds more than its share many times over.
  double largest = 0;
  for (std::size_t i = 0; i < shape.want.size(); ++i)
    largest = std::max(largest, std::fabs(shape.got[i] - shape.want[i]));
  const bool spread = n >= 16 && largest <= 8 * shape.difference / std::sqrt(n);
  if (shape.suspect.got.dtype == DType::float64 && spread && relative > 1e-9 && relative < 1e-4)
    causes.push_back(
        {"computed in float32 somewhere",
         "the difference is " + short_number(relative) +
             " of the tensor and spread evenly, as float32 rounding is; float64 rounding is 1e-12",
         0.5});
}

}  // namespace

void find_values(const ErrorShape& shape, std::vector<Cause>& causes) {
  std::int64_t bad = 0, got_nonzero = 0, want_nonzero = 0, lost = 0;
  for (std::size_t i = 0; i < shape.got.size(); ++i) {
    bad += nonfinite(shape.got[i]);
    got_nonzero += shape.got[i] != 0;
    want_nonzero += shape.want[i] != 0;
    lost += shape.wrong[i] && shape.got[i] == 0;
  }
  if (bad > 0) {
    causes.push_back({"not finite",
                      std::to_string(bad) + " of " + std::to_string(shape.got.size()) +
                          " values: a division by a count of zero, an overflow or an unset buffer",
                      0.6});
    return;
  }
  if (got_nonzero == 0 && want_nonzero > 0)
    causes.push_back(
        {"all zero", "nothing arrived: a missing gradient, a dropped term or a cleared buffer", 0.95});
  else if (lost == shape.wrong_count && lost > 0)
    causes.push_back(
        {"part of it zero",
         "all " + std::to_string(lost) + " wrong elements are exactly zero, the others are right", 0.9});
  else if (want_nonzero == 0 && got_nonzero > 0)
    causes.push_back({"something reaches what nothing should reach",
                      "want is exactly zero, " + std::to_string(got_nonzero) + " values are not", 0.8});
  if (shape.suspect.previous && shape.suspect.previous->shape == shape.suspect.want.shape) {
    const double residual = distance(shape.got, values_of(*shape.suspect.previous));
    const double confidence = shape.confidence(residual);
    if (confidence > 0)
      causes.push_back({"stale",
                        "got equals the value one step earlier (left over: " + short_number(residual) + ")",
                        confidence});
  }
  find_precision(shape, causes);
}

}  // namespace meshparity::diagnose

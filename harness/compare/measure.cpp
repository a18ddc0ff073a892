// One pass over got and want in blocks that stay in the first-level cache. A block with a NaN or Inf takes
// the slow path, which leaves those pairs out of the sums and counts them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "harness/compare/compare.h"
#include "harness/compare/kernel.h"

namespace meshparity::compare {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Neumaier's sum: the rounding of a total over many blocks is kept beside it.
class Sum {
 public:
  void add(double x) {
    const double t = sum_ + x;
    rest_ += std::fabs(sum_) >= std::fabs(x) ? (sum_ - t) + x : (x - t) + sum_;
    sum_ = t;
  }
  // An overflowed total stays Inf instead of becoming NaN through its rest.
  double value() const { return is_nonfinite(rest_) ? sum_ : sum_ + rest_; }

 private:
  double sum_ = 0, rest_ = 0;
};

// Elements [begin, begin + n) as doubles: where they stand for float64, converted into `buffer` otherwise.
const double* load(const TensorView& view, std::int64_t begin, std::size_t n, double* buffer) {
  if (view.dtype == DType::float64 && reinterpret_cast<std::uintptr_t>(view.data) % alignof(double) == 0)
    return view.as<double>() + begin;
  if (view.dtype == DType::float64) {
    std::memcpy(buffer, view.data + begin * 8, n * 8);
  } else if (view.dtype == DType::float32) {
    const std::byte* const source = view.data + begin * 4;
    std::size_t i = 0;
    typedef float Floats __attribute__((vector_size(16)));
    typedef double Doubles __attribute__((vector_size(32)));
    for (; i + 4 <= n; i += 4) {
      Floats f;
      std::memcpy(&f, source + 4 * i, sizeof f);
      const Doubles d = __builtin_convertvector(f, Doubles);
      std::memcpy(buffer + i, &d, sizeof d);
    }
    for (; i < n; ++i) {
      float f;
      std::memcpy(&f, source + 4 * i, sizeof f);
      buffer[i] = f;
    }
  } else {
    for (std::size_t i = 0; i < n; ++i) buffer[i] = view.at(begin + static_cast<std::int64_t>(i));
  }
  return buffer;
}

class Measurer {
 public:
  Measurer(const TensorView& got, const TensorView& want) : got_(got), want_(want) {}

  Metrics run() {
    m_.comparable = true;
    m_.elements = got_.numel();
    double got_buffer[kBlock], want_buffer[kBlock];
    for (std::int64_t begin = 0; begin < m_.elements; begin += kBlock) {
      const auto n = static_cast<std::size_t>(std::min<std::int64_t>(kBlock, m_.elements - begin));
      block(begin, n, load(got_, begin, n, got_buffer), load(want_, begin, n, want_buffer));
    }
    m_.diff_norm = std::sqrt(diff_.value());
    m_.want_norm = std::sqrt(want_sum_.value());
    m_.got_norm = std::sqrt(got_sum_.value());
    m_.dot = dot_.value();
    // Squares of very small or very large numbers leave the range of double: sum again, scaled.
    if (out_of_range(m_.max_abs) || out_of_range(m_.want_max)) scaled_norms();
    if (first_nonfinite_ >= 0) m_.worst = first_nonfinite_;
    if (m_.worst < 0 && m_.elements > 0) m_.worst = 0;
    if (m_.worst >= 0) {
      m_.worst_got = *load(got_, m_.worst, 1, got_buffer);
      m_.worst_want = *load(want_, m_.worst, 1, want_buffer);
    }
    return m_;
  }

 private:
  static bool out_of_range(double x) { return x != 0 && !(x > 1e-140 && x < 1e140); }

  void block(std::int64_t begin, std::size_t n, const double* got, const double* want) {
    alignas(64) double differences[kBlock];
    BlockSums sums = block_sums(got, want, n, differences);
    if (sums.nonfinite) {
      const std::int64_t differ = sums.differ_bitwise;
      sums = finite_pairs(begin, n, got, want, differences);
      sums.differ_bitwise = differ;
      sums.nonfinite = true;
    }
    diff_.add(sums.diff_squares);
    want_sum_.add(sums.want_squares);
    got_sum_.add(sums.got_squares);
    dot_.add(sums.dot);
    m_.differ_bitwise += sums.differ_bitwise;
    if (sums.want_max > m_.want_max) m_.want_max = sums.want_max;
    if (sums.max_abs > m_.max_abs) {
      m_.max_abs = sums.max_abs;
      m_.worst = begin + (std::find(differences, differences + n, sums.max_abs) - differences);
    }
    if (sums.differ_bitwise == 0 && !sums.nonfinite)
      m_.histogram[0] += static_cast<std::int64_t>(n);
    else
      block_histogram(differences, n, sums.nonfinite ? kInfinity : sums.max_abs, m_.histogram);
  }

  BlockSums finite_pairs(std::int64_t begin, std::size_t n, const double* got, const double* want,
                         double* differences) {
    BlockSums sums;
    for (std::size_t i = 0; i < n; ++i) {
      const bool got_bad = is_nonfinite(got[i]), want_bad = is_nonfinite(want[i]);
      m_.got_nonfinite += got_bad;
      m_.want_nonfinite += want_bad;
      if (got_bad && first_nonfinite_ < 0) first_nonfinite_ = begin + static_cast<std::int64_t>(i);
      if (got_bad || want_bad) {
        differences[i] = kInfinity;  // the histogram's last bucket
        continue;
      }
      differences[i] = std::fabs(got[i] - want[i]);
      sums.diff_squares += differences[i] * differences[i];
      sums.want_squares += want[i] * want[i];
      sums.got_squares += got[i] * got[i];
      sums.dot += got[i] * want[i];
      sums.max_abs = std::max(sums.max_abs, differences[i]);
      sums.want_max = std::max(sums.want_max, std::fabs(want[i]));
    }
    return sums;
  }

  void scaled_norms() {
    // Half the exponent, applied twice: the whole power of two would overflow for denormal numbers.
    const auto half_scale = [](double largest) {
      return largest > 0 && !is_nonfinite(largest) ? std::ldexp(1.0, -std::ilogb(largest) / 2) : 1.0;
    };
    const double half_diff = half_scale(m_.max_abs), half_want = half_scale(m_.want_max);
    const double half_got = half_scale(std::max(m_.want_max, m_.max_abs));
    Sum diff, want, got;
    for (std::int64_t i = 0; i < m_.elements; ++i) {
      const double g = got_.at(i), w = want_.at(i);
      if (is_nonfinite(g) || is_nonfinite(w)) continue;
      const double d = (g - w) * half_diff * half_diff, ws = w * half_want * half_want;
      const double gs = g * half_got * half_got;
      diff.add(d * d), want.add(ws * ws), got.add(gs * gs);
    }
    m_.diff_norm = std::sqrt(diff.value()) / half_diff / half_diff;
    m_.want_norm = std::sqrt(want.value()) / half_want / half_want;
    m_.got_norm = std::sqrt(got.value()) / half_got / half_got;
  }

  const TensorView& got_;
  const TensorView& want_;
  Metrics m_;
  Sum diff_, want_sum_, got_sum_, dot_;
  std::int64_t first_nonfinite_ = -1;
};

// Integers differ or do not; the size of a difference is for the report only.
Metrics measure_integers(const TensorView& got, const TensorView& want) {
  Metrics m;
  m.comparable = true;
  m.elements = got.numel();
  const std::size_t size = dtype_size(got.dtype);
  Sum diff, want_sum, got_sum, dot;
  for (std::int64_t i = 0; i < m.elements; ++i) {
    const double g = got.at(i), w = want.at(i);
    const bool equal = std::memcmp(got.data + i * size, want.data + i * size, size) == 0;
    // Two int64 above 2^53 may differ and round to one double: at least 1 is always true of integers.
    const double difference = equal ? 0.0 : std::max(1.0, std::fabs(g - w));
    m.differ_bitwise += !equal;
    ++m.histogram[histogram_bucket(difference)];
    diff.add(difference * difference), want_sum.add(w * w), got_sum.add(g * g), dot.add(g * w);
    m.want_max = std::max(m.want_max, std::fabs(w));
    if (m.worst < 0 || difference > m.max_abs) m.worst = i, m.max_abs = difference;
  }
  m.diff_norm = std::sqrt(diff.value()), m.want_norm = std::sqrt(want_sum.value());
  m.got_norm = std::sqrt(got_sum.value()), m.dot = dot.value();
  if (m.worst >= 0) m.worst_got = got.at(m.worst), m.worst_want = want.at(m.worst);
  return m;
}

std::string not_comparable(const TensorView& got, const TensorView& want) {
  if (got.shape != want.shape)
    return "shape " + shape_text(got.shape) + ", expected " + shape_text(want.shape);
  const std::string dtypes =
      "dtype " + std::string(dtype_name(got.dtype)) + ", expected " + std::string(dtype_name(want.dtype));
  if (is_floating(got.dtype) != is_floating(want.dtype)) return dtypes;
  if (got.dtype != want.dtype && !is_floating(got.dtype)) return dtypes;
  if (got.dtype != want.dtype && dtype_size(got.dtype) >= dtype_size(want.dtype)) return dtypes;
  if ((!got.data || !want.data) && got.numel() > 0) return "no data";
  return "";
}

}  // namespace

Metrics measure(const TensorView& got, const TensorView& want) {
  if (auto why = not_comparable(got, want); !why.empty()) {
    Metrics m;
    m.invalid = std::move(why);
    return m;
  }
  return is_floating(want.dtype) ? Measurer(got, want).run() : measure_integers(got, want);
}

}  // namespace meshparity::compare

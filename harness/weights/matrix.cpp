#include "harness/weights/matrix.h"

#include <algorithm>
#include <cmath>

namespace meshparity::weights {
namespace {

struct Format {
  int bits;      // of the significand, the hidden one included
  int smallest;  // exponent of the least subnormal
  double largest;
};

Format format_of(DType dtype) {
  switch (dtype) {
    case DType::bfloat16:
      return {8, -133, 0x1.fep127};
    case DType::float16:
      return {11, -24, 65504};
    case DType::float32:
      return {24, -149, 0x1.fffffep127};
    default:
      return {53, -1074, 0x1.fffffffffffffp1023};
  }
}

// To the format's multiple that `round` chooses; `beyond` is what stands for numbers above its largest.
template <class Round>
double snap(DType dtype, double value, double beyond, Round&& round) {
  if (!is_floating(dtype) || dtype == DType::float64 || value == 0 || !std::isfinite(value)) return value;
  const Format format = format_of(dtype);
  int exponent;
  std::frexp(value, &exponent);
  const int quantum = std::max(exponent - format.bits, format.smallest);
  const double snapped = std::ldexp(round(std::ldexp(value, -quantum)), quantum);
  return std::fabs(snapped) > format.largest ? std::copysign(beyond, value) : snapped;
}

}  // namespace

double round_to(DType dtype, double value) {
  return snap(dtype, value, INFINITY, [](double x) { return std::nearbyint(x); });
}

double truncate_to(DType dtype, double value) {
  return snap(dtype, value, format_of(dtype).largest, [](double x) { return std::trunc(x); });
}

DType narrower(DType a, DType b) {
  if (!is_floating(a) || !is_floating(b)) return a;
  return format_of(a).bits <= format_of(b).bits ? a : b;
}

bool same(const Matrix& a, const Matrix& b) {
  if (a.shape() != b.shape()) return false;
  for (std::int64_t i = 0; i < a.numel(); ++i)
    if (!same(a.at(i), b.at(i))) return false;
  return true;
}

std::vector<std::uint64_t> row_hashes(const Matrix& m) {
  std::vector<std::uint64_t> hashes;
  for (std::int64_t r = 0; r < m.rows(); ++r) {
    Hash hash;
    for (std::int64_t c = 0; c < m.columns(); ++c) hash.add(m.at(r, c));
    hashes.push_back(hash.value());
  }
  return hashes;
}

std::vector<std::uint64_t> column_hashes(const Matrix& m) {
  std::vector<Hash> columns(static_cast<std::size_t>(m.columns()));
  for (std::int64_t r = 0; r < m.rows(); ++r)
    for (std::int64_t c = 0; c < m.columns(); ++c) columns[static_cast<std::size_t>(c)].add(m.at(r, c));
  std::vector<std::uint64_t> hashes;
  for (const Hash& column : columns) hashes.push_back(column.value());
  return hashes;
}

std::uint64_t content_hash(const Matrix& m) {
  Hash hash;
  for (const std::int64_t size : m.shape()) hash.add(static_cast<double>(size));
  for (std::int64_t i = 0; i < m.numel(); ++i) hash.add(m.at(i));
  return hash.value();
}

}  // namespace meshparity::weights

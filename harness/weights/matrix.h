// A weight seen as rows of numbers, rounded to what both sides can hold, for causes that look at its inside.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "harness/types/generator.h"
#include "harness/types/tensor.h"

namespace meshparity::weights {

// The nearest number of a floating dtype, ties to even, infinite beyond its largest; integers as they are.
double round_to(DType dtype, double value);
// The next one towards zero.
double truncate_to(DType dtype, double value);
// The one with fewer significant bits.
DType narrower(DType a, DType b);

// Rows along dimension 0, all other dimensions as columns; a vector is a column.
class Matrix {
 public:
  Matrix(const TensorView& view, DType rounded) : view_(view), rounded_(rounded) {
    rows_ = view.shape.empty() ? 1 : view.shape[0];
    columns_ = rows_ == 0 ? 0 : view.numel() / rows_;
  }
  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  std::int64_t numel() const { return rows_ * columns_; }
  const Shape& shape() const { return view_.shape; }
  double at(std::int64_t i) const {
    const double value = view_.at(i);
    return rounded_ == view_.dtype ? value : round_to(rounded_, value);
  }
  double at(std::int64_t row, std::int64_t column) const { return at(row * columns_ + column); }

 private:
  TensorView view_;
  DType rounded_;
  std::int64_t rows_ = 0, columns_ = 0;
};

// Equal numbers; a NaN equals a NaN, so that what is nowhere a number can still be found again.
inline bool same(double a, double b) {
  return a == b || (a != a && b != b);
}
bool same(const Matrix& a, const Matrix& b);

// Of numbers in their order, for matching; zeros of either sign are one.
class Hash {
 public:
  void add(double value) {
    hash_ = mix64(hash_ ^ std::bit_cast<std::uint64_t>(value == 0 ? 0.0 : value)) + 1;
  }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = name_hash("");
};
std::vector<std::uint64_t> row_hashes(const Matrix& m);
std::vector<std::uint64_t> column_hashes(const Matrix& m);
std::uint64_t content_hash(const Matrix& m);

}  // namespace meshparity::weights

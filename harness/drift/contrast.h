// A mean over independent clusters and how surely it is not zero: Student's t over one value per cluster, so
// that tokens of one sample need not be independent of each other.
#pragma once

#include <cstdint>

namespace meshparity::drift {

class Contrast {
 public:
  void add(double value) { ++count_, sum_ += value, sum_square_ += value * value; }
  std::uint64_t count() const { return count_; }
  double mean() const { return count_ ? sum_ / static_cast<double>(count_) : 0; }
  // Two-sided probability of a mean this far from zero; 1 with fewer than kFewest clusters.
  double p() const;
  static constexpr std::uint64_t kFewest = 8;

 private:
  std::uint64_t count_ = 0;
  double sum_ = 0, sum_square_ = 0;
};

// Two-sided tail of Student's t with `freedom` degrees of freedom.
double student_tail(double t, double freedom);

// Share of the variance of y that a linear function of two features explains.
class TwoFeatureFit {
 public:
  void add(double y, double f, double g);
  double explained() const;

 private:
  double n_ = 0, y_ = 0, f_ = 0, g_ = 0, yy_ = 0, ff_ = 0, gg_ = 0, yf_ = 0, yg_ = 0, fg_ = 0;
};

}  // namespace meshparity::drift

// Quantiles of values in memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace meshparity::drift {

// The value at `level` of 0 to 1; reorders `values`. 0 of none.
inline double quantile(std::vector<float>& values, double level) {
  if (values.empty()) return 0;
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(std::min(
                                       values.size() - 1,
                                       static_cast<std::size_t>(level * static_cast<double>(values.size()))));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

}  // namespace meshparity::drift

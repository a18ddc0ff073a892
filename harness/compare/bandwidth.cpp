// How near the comparer runs to plain memory reading, measured side by side in one run on the same arrays.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "harness/compare/compare.h"

namespace meshparity::compare {
namespace {

// Adds up both arrays as integers over eight independent sums: nothing but loads and the cheapest use of
// them.
std::uint64_t read_all(const std::vector<double>& a) {
  typedef std::uint64_t Words __attribute__((vector_size(16)));
  Words sums[8] = {};
  const std::size_t step = 2 * 8;
  for (std::size_t i = 0; i + step <= a.size(); i += step)
    for (std::size_t k = 0; k < 8; ++k) {
      Words w;
      std::memcpy(&w, a.data() + i + 2 * k, sizeof w);
      sums[k] += w;
    }
  std::uint64_t total = 0;
  for (const auto& s : sums) total += s[0] + s[1];
  return total;
}

template <class F>
double best_seconds(F&& run) {
  double best = 1e300;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto begin = std::chrono::steady_clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

}  // namespace

Bandwidth compare_bandwidth(std::size_t bytes) {
  const std::size_t n = std::max<std::size_t>(bytes / 2 / sizeof(double), 1);
  std::vector<double> got(n), want(n);
  // Differences over several decades, as rounding leaves them: equal blocks would take a shortcut.
  for (std::size_t i = 0; i < n; ++i) {
    want[i] = 1.0 + static_cast<double>((i * 2654435761u) & 1023) * 0x1p-10;
    got[i] = want[i] * (1.0 + static_cast<double>((i * 40503u) & 255) * 0x1p-52);
  }
  const auto shape = Shape{static_cast<std::int64_t>(n)};
  const TensorView g{DType::float64, shape, reinterpret_cast<const std::byte*>(got.data())};
  const TensorView w{DType::float64, shape, reinterpret_cast<const std::byte*>(want.data())};
  volatile std::uint64_t keep = 0;
  volatile double keep_norm = 0;
  const double moved = 2.0 * static_cast<double>(n * sizeof(double)) * 1e-9;
  Bandwidth result;
  result.read_gb_s = moved / best_seconds([&] { keep = read_all(got) + read_all(want); });
  result.measure_gb_s = moved / best_seconds([&] { keep_norm = measure(g, w).diff_norm; });
  return result;
}

}  // namespace meshparity::compare

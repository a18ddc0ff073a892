// Compiled several times for wider registers and chosen when the program starts. Written with vector types,
// because a compiler may not reorder a sum of doubles by itself; the lanes are the blocked summation (256
// terms each at most).
#include "harness/compare/kernel.h"

#include <cstring>
#include <limits>

// Sanitizers instrument the resolver before they are initialised, so they get the plain version.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define MESHPARITY_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MESHPARITY_CLONES
#endif

namespace meshparity::compare {
namespace {

constexpr std::size_t kLanes = 4;
typedef double Doubles __attribute__((vector_size(kLanes * sizeof(double))));
typedef std::int64_t Integers __attribute__((vector_size(kLanes * sizeof(double))));

// kLeast[b] opens bucket b; bucket 0 is exactly zero.
// clang-format off
constexpr double kLeast[32] = {
    0,    std::numeric_limits<double>::denorm_min(),
    1e-17, 1e-16, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5,
    1e-4,  1e-3,  1e-2,  1e-1,  1e0,   1e1,   1e2,   1e3,   1e4,  1e5,  1e6,  1e7,  1e8,
    1e9,   1e10,  1e11,  1e12};
// clang-format on

inline std::uint64_t bits_of(double x) {
  std::uint64_t bits;
  std::memcpy(&bits, &x, 8);
  return bits;
}

}  // namespace

int histogram_bucket(double difference) {
  if (is_nonfinite(difference)) return 31;
  int bucket = 31;
  while (bucket > 0 && !(difference >= kLeast[bucket])) --bucket;
  return bucket;
}

MESHPARITY_CLONES
BlockSums block_sums(const double* got, const double* want, std::size_t n, double* differences) {
  Doubles diff_squares{}, want_squares{}, got_squares{}, dot{}, max_abs{}, want_max{};
  Integers equal{}, nonfinite{};
  const Integers magnitude = Integers{} + 0x7FFFFFFFFFFFFFFFll;
  const Integers exponent = Integers{} + 0x7FF0000000000000ll;
  const std::size_t whole = n / kLanes * kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes) {
    Doubles g, w;
    std::memcpy(&g, got + i, sizeof g);
    std::memcpy(&w, want + i, sizeof w);
    const Integers g_bits = (Integers)g, w_bits = (Integers)w;
    const Doubles difference = g - w;
    const Doubles absolute = (Doubles)((Integers)difference & magnitude);
    const Doubles w_absolute = (Doubles)(w_bits & magnitude);
    std::memcpy(differences + i, &absolute, sizeof absolute);
    diff_squares += difference * difference;
    want_squares += w * w;
    got_squares += g * g;
    dot += g * w;
    max_abs = absolute > max_abs ? absolute : max_abs;
    want_max = w_absolute > want_max ? w_absolute : want_max;
    equal -= (g_bits == w_bits);
    nonfinite |= ((g_bits & exponent) == exponent) | ((w_bits & exponent) == exponent);
  }
  BlockSums sums;
  std::int64_t equal_count = 0;
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    sums.diff_squares += diff_squares[lane];
    sums.want_squares += want_squares[lane];
    sums.got_squares += got_squares[lane];
    sums.dot += dot[lane];
    if (max_abs[lane] > sums.max_abs) sums.max_abs = max_abs[lane];
    if (want_max[lane] > sums.want_max) sums.want_max = want_max[lane];
    equal_count += equal[lane];
    sums.nonfinite |= nonfinite[lane] != 0;
  }
  for (std::size_t i = whole; i < n; ++i) {
    const double g = got[i], w = want[i], difference = g - w;
    differences[i] = __builtin_fabs(difference);
    sums.diff_squares += difference * difference;
    sums.want_squares += w * w;
    sums.got_squares += g * g;
    sums.dot += g * w;
    if (differences[i] > sums.max_abs) sums.max_abs = differences[i];
    if (__builtin_fabs(w) > sums.want_max) sums.want_max = __builtin_fabs(w);
    equal_count += bits_of(g) == bits_of(w);
    sums.nonfinite |= is_nonfinite(g) || is_nonfinite(w);
  }
  sums.differ_bitwise = static_cast<std::int64_t>(n) - equal_count;
  return sums;
}

// Counts how many reach each power of ten, from the largest down until all that are not zero are counted:
// rounding spreads over a few decades, and one pass of vector comparisons per decade costs less than one
// table look-up per element.
MESHPARITY_CLONES
void block_histogram(const double* differences, std::size_t n, double max_abs, Histogram& histogram) {
  const std::size_t whole = n / kLanes * kLanes;
  const auto reach = [&](double least) __attribute__((always_inline)) {
    Integers counts{};
    const Doubles bound = Doubles{} + least;
    for (std::size_t i = 0; i < whole; i += kLanes) {
      Doubles d;
      std::memcpy(&d, differences + i, sizeof d);
      counts -= (d >= bound);
    }
    std::int64_t count = 0;
    for (std::size_t lane = 0; lane < kLanes; ++lane) count += counts[lane];
    for (std::size_t i = whole; i < n; ++i) count += differences[i] >= least;
    return count;
  };
  const std::int64_t nonzero = reach(kLeast[1]);
  histogram[0] += static_cast<std::int64_t>(n) - nonzero;
  std::int64_t above = 0;
  for (int bucket = histogram_bucket(max_abs); above < nonzero; --bucket) {
    const std::int64_t count = bucket == 1 ? nonzero : reach(kLeast[bucket]);
    histogram[bucket] += count - above;
    above = count;
  }
}

}  // namespace meshparity::compare

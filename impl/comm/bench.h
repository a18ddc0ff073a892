// Times the in-process engine beside c10d Gloo, in the same run on the same machine: `meshparity bench
// collectives`.
#pragma once

#include <cstdint>

namespace meshparity::impl {

// Median time of one float64 all-reduce, over all repeats, as rank 0 sees it, in microseconds.
struct CollectiveTiming {
  int ranks = 0;
  std::int64_t bytes = 0;  // per rank
  double in_process_us = 0, gloo_us = 0;
  double ratio() const { return gloo_us / in_process_us; }
};

// All-reduces of `bytes` (rounded up to whole float64) among `ranks` >= 2 threads, `repeats` >= 1 times per
// engine after a warm-up; Gloo's ranks are threads too, so that both pay for the same two cores. Throws
// RunError if ranks disagree on the sum or an engine fails.
CollectiveTiming time_collectives(int ranks, std::int64_t bytes, int repeats);

}  // namespace meshparity::impl

// How runs are timed.
#pragma once

#include <chrono>

namespace meshparity::cli {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace meshparity::cli

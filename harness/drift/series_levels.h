// The level of every step of a series: how large |d| is for tokens of given probability in its typical
// sequence, and which sequences lie far above it.
#pragma once

#include <vector>

#include "harness/drift/series.h"

namespace meshparity::drift {

// One line per step; `bad` is left false. Levels are relative to the median step's.
std::vector<SeriesStep> series_levels(const std::vector<StepData>& steps);

}  // namespace meshparity::drift

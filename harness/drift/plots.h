// Bins for the pictures of a report.
#pragma once

#include "harness/drift/tokens.h"
#include "harness/types/drift_plots.h"

namespace meshparity::drift {

DriftPlots plots_of(const KeptTokens& kept);

}  // namespace meshparity::drift

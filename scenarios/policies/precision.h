// A dtype policy planted in the implementation: every place of it rounds through a seam of impl.
#pragma once

#include "harness/types/precision.h"
#include "impl/seams.h"

namespace meshparity::policies {

// Adds the policy's roundings to the seams of a run. Numbers are carried in the run's dtype (float64, so that
// a place of dtype float64 changes nothing) and gradients are rounded where their values were. Sums inside
// one product stay exact: what is rounded is what a kernel writes, not how it accumulates.
void plant(const PrecisionPolicy& policy, impl::Seams& seams);

}  // namespace meshparity::policies

// What each single choice of dtype costs between a trainer and a rollout: choices are exchanged one at a
// time, starting from either side. Computes no model: whoever asks runs it.
#pragma once

#include <functional>
#include <vector>

#include "harness/types/attribution.h"

namespace meshparity::drift {

// `drift_of(policy)`: mean |train - rollout| where the trainer has this policy and the rollout its own.
// Without `each_place` no choice is exchanged and costs are 0.
Attribution attribute(const PrecisionPolicy& train, const PrecisionPolicy& rollout,
                      const std::function<double(const PrecisionPolicy& trainer)>& drift_of,
                      bool each_place = true);

// |d| by position in the document: 1, 2-3, 4-7, ... `position` from 0, one for every d.
std::vector<DriftBin> by_position(const std::vector<double>& differences,
                                  const std::vector<std::int64_t>& position);

}  // namespace meshparity::drift

// What each single choice of dtype costs between a trainer and a rollout: found by harness/drift/attribution,
// rendered by reports/attribution.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "harness/types/drift_result.h"
#include "harness/types/precision.h"

namespace meshparity {

// A place at which the two policies differ. Both numbers are in nats, changes of the mean |train - rollout|.
struct PlaceCost {
  Place place;
  DType train, rollout;
  double removed = 0;  // by giving the trainer the rollout's choice, all else as it was
  double added = 0;    // by giving a trainer that agrees with the rollout everywhere the trainer's choice
};

struct Attribution {
  std::string train, rollout;    // names of the policies
  double drift = 0;              // mean |train - rollout|, each with its own policy
  double same_policy = 0;        // with the rollout's policy on both sides: what the engines differ by
  std::vector<PlaceCost> costs;  // largest first, by the mean of the two numbers
  // Relative difference (L2) of what the blocks hand on between the two policies on the training engine, in
  // order; and |train - rollout| by position in the document.
  std::vector<std::pair<std::string, double>> by_depth;
  std::vector<DriftBin> by_position;
  bool each_place = true;  // every choice was exchanged alone; else costs only list the places
  std::string sentence;
};

}  // namespace meshparity

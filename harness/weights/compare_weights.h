// Two sets of weights that must be the same: sent by a trainer and got by a rollout engine, saved and loaded,
// resharded. Equal means every bit, or one rounding to the narrower dtype where the two sides store different
// ones. What is not equal gets a name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/types/weight_set.h"
#include "harness/weights/causes.h"

namespace meshparity::weights {

enum class Match {
  bitwise,  // every bit
  rounded,  // one rounding to the narrower dtype
  wrong,    // neither, or not there
};

struct WeightResult {
  std::string name;
  Match match = Match::bitwise;
  std::int64_t elements = 0, different = 0;
  double max_abs = 0;        // largest difference
  std::string where;         // of it, "[3,17]"
  double sent = 0, got = 0;  // there
  std::string what;          // "shape [3,4], sent [4,3]", "is missing"; empty where values differ
  Cause cause;
};

struct WeightReport {
  std::vector<WeightResult> wrong;                      // in the order of names
  std::vector<std::string> notes;                       // what is no fault: a tied head that one side stores
  std::int64_t bitwise = 0, rounded = 0, elements = 0;  // weights, weights, elements compared
  bool equal() const { return wrong.empty(); }
};

// `sent` is what should have arrived, `got` what did. `previous` may be null. Streams: at any time it looks
// at one weight of each side. Throws InputError where nothing can be compared: no name is in both.
WeightReport compare_weights(const WeightSet& sent, const WeightSet& got, const WeightSet* previous);

}  // namespace meshparity::weights

// Why one weight is not what it was sent as. Nothing here knows a framework: a cause is a relation between
// numbers that holds for every element, or it is not named.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "harness/types/weight_set.h"
#include "harness/weights/matrix.h"

namespace meshparity::weights {

struct Cause {
  std::string text;       // empty: unknown
  double confidence = 0;  // 1: holds for every element and could not by chance
};

// What a cause may look at besides the two tensors.
struct Surroundings {
  const WeightSet* previous = nullptr;  // an older version; may be null
  // Content of every weight of the side that was sent, rounded to what both sides hold: who else could it be?
  const std::map<std::uint64_t, std::vector<std::string>>* contents = nullptr;
};

// `sent` and `got` are of one shape and not equal after one rounding to the narrower dtype.
Cause cause_of_values(const std::string& name, const TensorView& sent, const TensorView& got,
                      const Surroundings& around);
// They are of different shapes.
Cause cause_of_shape(const std::string& name, const TensorView& sent, const TensorView& got);

}  // namespace meshparity::weights

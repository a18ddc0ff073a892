// Where a set of elements lies: rows, columns, strides. What turns "41 outside" into "all in columns
// 384..511".
#pragma once

#include <functional>
#include <string>

#include "harness/types/tensor.h"

namespace meshparity::compare {

struct Location {
  std::int64_t count = 0;
  std::string text;  // "all in columns 384..511 of 1024"; empty where they are everywhere
};

// Looks at every element once. Dimensions the elements fill from end to end are not mentioned.
Location locate(const Shape& shape, const std::function<bool(std::int64_t)>& member);

}  // namespace meshparity::compare

// A local tensor as runs of consecutive elements of the global one: what makes unsharding a handful of memory
// copies.
#pragma once

#include <vector>

#include "harness/layout/layout.h"

namespace meshparity::layout {

// `length` elements from flat index `offset` of the global tensor; in the local tensor the runs follow one
// another.
struct Run {
  std::int64_t offset = 0;
  std::int64_t length = 0;
};

std::vector<Run> runs_of(const LocalIndex& index);

}  // namespace meshparity::layout

// What a fault knows about the rank it is planted on: its plan hook notes the coordinate, later hooks and
// entries of the same rank (the same thread) read it.
#pragma once

#include "impl/parallel/plan.h"

namespace meshparity::faults {

struct ThisRank {
  RankCoordinate at;
  Mesh mesh;
  std::int64_t micro_batches = 0;
};

inline ThisRank& this_rank() {
  thread_local ThisRank rank;
  return rank;
}

// A plan hook that only notes.
inline void note_rank(impl::Plan& plan, const Mesh& mesh) {
  this_rank().at = plan.at;
  this_rank().mesh = mesh;
}

}  // namespace meshparity::faults

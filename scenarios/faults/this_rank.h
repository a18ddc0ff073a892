// What a fault knows about the rank it is planted on: its plan hook notes the coordinate, later hooks and
// entries of the same rank (the same thread) read it.
#pragma once

#include "impl/parallel/plan.h"
#include "impl/parallel/token_layout.h"

namespace meshparity::faults {

struct ThisRank {
  RankCoordinate at;
  Mesh mesh;
  std::int64_t micro_batches = 0;
  Range experts;                 // held before sharding; empty in dense models
  std::int64_t hidden = 0;       // width of the embedding; 0 where this rank holds none
  const Batch* batch = nullptr;  // noted by note_batch
};

inline ThisRank& this_rank() {
  thread_local ThisRank rank;
  return rank;
}

// A plan hook that only notes.
inline void note_rank(impl::Plan& plan, const Mesh& mesh) {
  this_rank().at = plan.at;
  this_rank().mesh = mesh;
  this_rank().experts = {0, 0}, this_rank().hidden = 0;
  for (const auto& row : plan.rows) {
    if (row.expert) this_rank().experts = plan.experts(row);
    if (row.name.ends_with("embed_tokens.weight")) this_rank().hidden = row.shape[1];
  }
}

// A layout hook that only notes.
inline void note_batch(impl::TokenLayout& layout, const Mesh&, int) {
  this_rank().micro_batches = static_cast<std::int64_t>(layout.micro_batches.size());
  this_rank().batch = layout.batch;
}

}  // namespace meshparity::faults

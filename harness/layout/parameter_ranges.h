// What a rank holds of a parameter, as ranges of indices: the placement rule itself. Lists of single indices
// (layout.h) are written out from it; plans of thousands of ranks count with it.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/types/cut.h"
#include "harness/types/mesh.h"
#include "harness/types/placement.h"

namespace meshparity::layout {

// Indices of one dimension in a rank's own order: ranges that follow one another.
using Ranges = std::vector<Range>;
std::int64_t total(const Ranges& ranges);
// Places part.begin .. part.end of the indices written one after another.
Ranges slice(const Ranges& ranges, Range part);

// One part of several.
struct Part {
  int parts = 1, index = 0;
};
// What cuts a parameter: its width (tp, or etp for experts), its experts (ep), and what remains (fsdp; for
// experts edp, where anything is sharded at all).
struct ParameterCut {
  Part width, experts, shard;
};
ParameterCut cut_of(const ParameterPlacement& placement, const Mesh& mesh, const Flags& flags,
                    const RankCoordinate& at);

// The indices that one part has of dimension `dim`. `gathered`: before `shard` cuts it, as its blocks use it.
Ranges dimension_ranges(const ParameterPlacement& placement, int dim, const ParameterCut& cut, bool gathered);

// How many elements a rank has, as if its pipeline stage held everything.
std::int64_t local_elements(const ParameterPlacement& placement, const ParameterCut& cut, bool gathered);
// The most that any rank has.
std::int64_t largest_part(const ParameterPlacement& placement, const ParameterCut& parts, bool gathered);

}  // namespace meshparity::layout

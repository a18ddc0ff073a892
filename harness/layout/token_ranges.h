// Which tokens of a row a context-parallel rank holds, as ranges: the rule of token_order.h without a place
// for every token, for plans of long rows. A test holds the two against each other.
#pragma once

#include <string>
#include <vector>

#include "harness/layout/parameter_ranges.h"

namespace meshparity::layout {

// Per cp index (ring index * uly + uly index) the ranges it holds of one row, in its own order. `documents`:
// the row's documents, one after another. `layout`: contiguous, zigzag or zigzag-document.
std::vector<Ranges> token_ranges(const std::vector<Range>& documents, const std::string& layout, int ring,
                                 int uly);

}  // namespace meshparity::layout

// Which context-parallel rank holds a token of a packed row, and in which order: the specification's layouts
// token by token. Derived from the specification alone, as a place for every token; the implementation has
// lists of its own, and the gate compares the two.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/types/cut.h"

namespace meshparity::layout {

// Per cp index (ring index * uly + uly index) the tokens it holds of one row, in its own order. `documents`:
// the row's documents as token ranges, one after another. `layout`: contiguous, zigzag or zigzag-document.
// Throws InputError for another word.
std::vector<std::vector<std::int64_t>> context_order(const std::vector<Range>& documents,
                                                     const std::string& layout, int ring, int uly);

}  // namespace meshparity::layout

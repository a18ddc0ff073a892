// A stretch of one document that the fused delta rule treats as one chunk.
#pragma once

#include <cstdint>

namespace meshparity::impl {

// Tokens [begin, end); `first`: the document begins here and no state enters.
struct DeltaPiece {
  std::int64_t begin = 0, end = 0;
  bool first = true;
};

}  // namespace meshparity::impl

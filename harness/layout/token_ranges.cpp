#include "harness/layout/token_ranges.h"

namespace meshparity::layout {
namespace {

// Chunks r and 2R-1-r of one stretch, moved to where it begins.
void add_zigzag(Ranges& ranges, Range stretch, int ring, int index) {
  for (const int chunk : {index, 2 * ring - 1 - index}) {
    const Range part = cut(stretch.size(), 2 * ring, chunk);
    if (part.size() > 0) ranges.push_back({stretch.begin + part.begin, stretch.begin + part.end});
  }
}

}  // namespace

std::vector<Ranges> token_ranges(const std::vector<Range>& documents, const std::string& layout, int ring,
                                 int uly) {
  std::vector<Ranges> held;
  if (documents.empty()) return std::vector<Ranges>(static_cast<std::size_t>(ring) * uly);
  const Range row{documents.front().begin, documents.back().end};
  if (layout == "contiguous" || ring == 1) {
    for (int c = 0; c < ring * uly; ++c) held.push_back(slice({row}, cut(row.size(), ring * uly, c)));
    return held;
  }
  for (int r = 0; r < ring; ++r) {
    Ranges of_ring;
    if (layout == "zigzag") add_zigzag(of_ring, row, ring, r);
    if (layout == "zigzag-document")
      for (const Range& document : documents) add_zigzag(of_ring, document, ring, r);
    for (int u = 0; u < uly; ++u) held.push_back(slice(of_ring, cut(total(of_ring), uly, u)));
  }
  return held;
}

}  // namespace meshparity::layout

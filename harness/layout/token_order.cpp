#include "harness/layout/token_order.h"

#include "harness/types/error.h"

namespace meshparity::layout {
namespace {

// The part of `parts` of `total` that element i falls into, when part p starts at floor(p * total / parts).
std::int64_t part_of(std::int64_t i, std::int64_t total, std::int64_t parts) {
  return ((i + 1) * parts - 1) / total;
}

// A token's place before the list of its ring index is cut over uly.
struct RingPlace {
  int ring = 0;
  std::int64_t slot = 0;
};

// Token i of a stretch of n tokens laid in zigzag: chunk c of 2R belongs to ring index c, or to 2R-1-c from
// the other end; a ring index has its front chunk first.
RingPlace zigzag_place(std::int64_t i, std::int64_t n, int ring) {
  const std::int64_t chunk = part_of(i, n, 2 * ring);
  const std::int64_t inside = i - cut(n, 2 * ring, chunk).begin;
  if (chunk < ring) return {static_cast<int>(chunk), inside};
  const int owner = static_cast<int>(2 * ring - 1 - chunk);
  return {owner, cut(n, 2 * ring, owner).size() + inside};
}

std::int64_t zigzag_size(std::int64_t n, int ring, int index) {
  return cut(n, 2 * ring, index).size() + cut(n, 2 * ring, 2 * ring - 1 - index).size();
}

}  // namespace

std::vector<std::vector<std::int64_t>> context_order(const std::vector<Range>& documents,
                                                     const std::string& layout, int ring, int uly) {
  if (layout != "contiguous" && layout != "zigzag" && layout != "zigzag-document")
    throw InputError("layout '" + layout + "' is unknown");
  std::vector<std::vector<std::int64_t>> held(static_cast<std::size_t>(ring) * uly);
  if (documents.empty() || documents.front().begin == documents.back().end) return held;
  const std::int64_t begin = documents.front().begin, n = documents.back().end - begin;

  if (layout == "contiguous" || ring == 1) {
    for (std::int64_t i = 0; i < n; ++i) held[part_of(i, n, ring * uly)].push_back(begin + i);
    return held;
  }
  // Every ring index's list, filled by place.
  std::vector<std::vector<std::int64_t>> lists(ring);
  const auto put = [&](const RingPlace& place, std::int64_t before, std::int64_t token) {
    auto& list = lists[place.ring];
    const auto at = static_cast<std::size_t>(before + place.slot);
    if (list.size() <= at) list.resize(at + 1);
    list[at] = token;
  };
  if (layout == "zigzag") {
    for (std::int64_t i = 0; i < n; ++i) put(zigzag_place(i, n, ring), 0, begin + i);
  } else {
    std::vector<std::int64_t> before(ring, 0);
    for (const Range& document : documents) {
      for (std::int64_t i = 0; i < document.size(); ++i) {
        const RingPlace place = zigzag_place(i, document.size(), ring);
        put(place, before[place.ring], document.begin + i);
      }
      for (int r = 0; r < ring; ++r) before[r] += zigzag_size(document.size(), ring, r);
    }
  }
  for (int r = 0; r < ring; ++r) {
    const auto size = static_cast<std::int64_t>(lists[r].size());
    for (std::int64_t i = 0; i < size; ++i) held[r * uly + part_of(i, size, uly)].push_back(lists[r][i]);
  }
  return held;
}

}  // namespace meshparity::layout

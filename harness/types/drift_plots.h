// What the pictures of a drift report are drawn from: bins, so that their size does not depend on the tokens.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace meshparity {

// |d| of the tokens whose place (in the document, in a chunk, in a stretch) lies in [begin, end).
struct DriftPlaceBin {
  std::int64_t begin = 0, end = 0;
  std::uint64_t tokens = 0;
  double mean_abs = 0, median_abs = 0, high_abs = 0;  // high: the 95th percentile; of a stretch the largest
};

struct DriftPlots {
  std::uint64_t tokens = 0;              // that the plots show
  std::vector<DriftPlaceBin> positions;  // by index in the document, at most kPlotBins
  std::vector<DriftPlaceBin> chunk;      // by place in a chunk of 64
  // Whole documents (of a long one a part) around the token with the largest |d|, token after token.
  std::vector<DriftPlaceBin> stretch;
  std::vector<std::int64_t> stretch_documents, stretch_chunks;  // places where one begins
  std::int64_t stretch_worst = -1;                              // place of that token
  // Of d, evenly over [-limit, limit); what lies outside is in below and above.
  double histogram_limit = 0;
  std::vector<std::uint64_t> histogram;
  std::uint64_t below = 0, above = 0;
  // Of (rollout, train), both over [scatter_low, 0]: cells [train][rollout] of kScatterSide squared, or the
  // points themselves where there are few.
  double scatter_low = 0;
  std::vector<std::uint32_t> scatter;
  std::vector<std::pair<float, float>> points;
};

inline constexpr std::size_t kPlotBins = 240, kHistogramBins = 121, kScatterSide = 64, kMostPoints = 1200;

}  // namespace meshparity

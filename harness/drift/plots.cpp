#include "harness/drift/plots.h"

#include <algorithm>
#include <cmath>

#include "harness/drift/quantile.h"

namespace meshparity::drift {
namespace {

constexpr std::int64_t kChunkTokens = 64, kStretchTokens = 1200, kMostStretch = 2400;

DriftPlaceBin place_bin(std::int64_t begin, std::int64_t end, std::vector<float>& sizes, double high_level) {
  DriftPlaceBin bin;
  bin.begin = begin, bin.end = end, bin.tokens = sizes.size();
  for (const float size : sizes) bin.mean_abs += static_cast<double>(size);
  if (!sizes.empty()) bin.mean_abs /= static_cast<double>(sizes.size());
  bin.median_abs = quantile(sizes, 0.5), bin.high_abs = quantile(sizes, high_level);
  return bin;
}

// Bins of equal width over [0, count) by a place of every token; empty ones are left out.
template <class Place>
std::vector<DriftPlaceBin> bins_by(const KeptTokens& kept, std::int64_t count, Place place) {
  // Some 60 tokens a bin where there are few: a mean of three says nothing.
  const auto wanted =
      static_cast<std::int64_t>(std::clamp<std::size_t>(kept.tokens.size() / 60, 16, kPlotBins));
  const std::int64_t bins = std::min(count, wanted);
  std::vector<std::vector<float>> sizes(static_cast<std::size_t>(bins));
  for (const Token& token : kept.tokens)
    sizes[static_cast<std::size_t>(place(token) * bins / count)].push_back(std::abs(token.d));
  std::vector<DriftPlaceBin> out;
  for (std::int64_t i = 0; i < bins; ++i) {
    // The places that the bin takes: those p with p * bins / count == i.
    const std::int64_t begin = (i * count + bins - 1) / bins, end = ((i + 1) * count + bins - 1) / bins;
    if (auto& part = sizes[static_cast<std::size_t>(i)]; !part.empty())
      out.push_back(place_bin(begin, end, part, 0.95));
  }
  return out;
}

void add_stretch(const KeptTokens& kept, DriftPlots& plots) {
  std::size_t worst = 0;
  for (std::size_t i = 1; i < kept.tokens.size(); ++i)
    if (std::abs(kept.tokens[i].d) > std::abs(kept.tokens[worst].d)) worst = i;
  std::size_t first = 0;
  while (kept.samples[first].end <= worst) ++first;
  std::size_t last = first + 1;
  const auto tokens = [&] {
    return static_cast<std::int64_t>(kept.samples[last - 1].end - kept.samples[first].begin);
  };
  // Neighbours on both sides, in turn, while the whole stays readable.
  for (bool left = true, grew = true; tokens() < kStretchTokens; left = !left) {
    const bool could = left ? first > 0 : last < kept.samples.size();
    if (!could && !grew) break;
    grew = could;
    if (could) left ? --first : ++last;
  }
  std::size_t begin = kept.samples[first].begin, end = kept.samples[last - 1].end;
  if (static_cast<std::int64_t>(end - begin) > kMostStretch) {
    begin = std::max(begin, worst - std::min<std::size_t>(worst, kMostStretch / 2));
    end = std::min(end, begin + kMostStretch);
  }
  const auto count = static_cast<std::int64_t>(end - begin),
             bins = std::min<std::int64_t>(count, 2 * static_cast<std::int64_t>(kPlotBins));
  for (std::int64_t i = 0; i < bins; ++i) {
    const std::int64_t from = i * count / bins, to = (i + 1) * count / bins;
    std::vector<float> sizes;
    for (std::int64_t place = from; place < to; ++place)
      sizes.push_back(std::abs(kept.tokens[begin + static_cast<std::size_t>(place)].d));
    plots.stretch.push_back(place_bin(from, to, sizes, 1));
  }
  plots.stretch_worst = static_cast<std::int64_t>(worst - begin);
  for (std::size_t s = first; s < last; ++s)
    for (std::size_t i = std::max(begin, kept.samples[s].begin); i < std::min(end, kept.samples[s].end);
         ++i) {
      const auto place = static_cast<std::int64_t>(i - begin);
      if (i == kept.samples[s].begin)
        plots.stretch_documents.push_back(place);
      else if (kept.tokens[i].position / kChunkTokens != kept.tokens[i - 1].position / kChunkTokens)
        plots.stretch_chunks.push_back(place);
    }
}

void add_histogram(const KeptTokens& kept, DriftPlots& plots) {
  std::vector<float> sizes;
  for (const Token& token : kept.tokens) sizes.push_back(std::abs(token.d));
  plots.histogram_limit = 1.25 * quantile(sizes, 0.999);
  if (plots.histogram_limit <= 0) plots.histogram_limit = 1.25 * quantile(sizes, 1);
  plots.histogram.assign(kHistogramBins, 0);
  if (plots.histogram_limit <= 0) {
    plots.histogram[kHistogramBins / 2] = kept.tokens.size();
    return;
  }
  for (const Token& token : kept.tokens) {
    const double share = (static_cast<double>(token.d) / plots.histogram_limit + 1) / 2;
    if (share < 0)
      ++plots.below;
    else if (share >= 1)
      ++plots.above;
    else
      ++plots.histogram[std::min(kHistogramBins - 1, static_cast<std::size_t>(share * kHistogramBins))];
  }
}

void add_scatter(const KeptTokens& kept, DriftPlots& plots) {
  std::vector<float> lows;
  for (const Token& token : kept.tokens) lows.push_back(-std::min(token.train, token.rollout));
  plots.scatter_low = -std::max(1e-3, 1.05 * quantile(lows, 0.9999));
  if (kept.tokens.size() <= kMostPoints) {
    for (const Token& token : kept.tokens) plots.points.emplace_back(token.rollout, token.train);
    return;
  }
  plots.scatter.assign(kScatterSide * kScatterSide, 0);
  const auto cell = [&](float value) {
    const double share = 1 - static_cast<double>(value) / plots.scatter_low;
    return static_cast<std::size_t>(std::clamp(share * kScatterSide, 0.0, kScatterSide - 1.0));
  };
  for (const Token& token : kept.tokens)
    ++plots.scatter[cell(token.train) * kScatterSide + cell(token.rollout)];
}

}  // namespace

DriftPlots plots_of(const KeptTokens& kept) {
  DriftPlots plots;
  plots.tokens = kept.tokens.size();
  if (kept.tokens.empty()) return plots;
  std::int64_t longest = 0;
  for (const Token& token : kept.tokens) longest = std::max<std::int64_t>(longest, token.position);
  plots.positions = bins_by(kept, longest + 1, [](const Token& t) { return std::int64_t{t.position}; });
  plots.chunk = bins_by(kept, kChunkTokens, [](const Token& t) { return t.position % kChunkTokens; });
  add_stretch(kept, plots), add_histogram(kept, plots), add_scatter(kept, plots);
  return plots;
}

}  // namespace meshparity::drift

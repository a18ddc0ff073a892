#include "harness/drift/tokens.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "harness/drift/quantile.h"
#include "harness/types/generator.h"

namespace meshparity::drift {
namespace {

constexpr std::size_t kBinTokens = 2000, kMostBins = 64;
constexpr float kUntouchedShare = 3e-5F;  // of the 95th percentile of |d|

// Mid-ranks in (-1/2, 1/2) of key over the tokens [begin, end) of `order`; ties share one.
template <class Key, class Put>
void rank_range(std::vector<std::uint32_t>& order, std::size_t begin, std::size_t end, Key key, Put put) {
  const auto first = order.begin() + static_cast<std::ptrdiff_t>(begin),
             last = order.begin() + static_cast<std::ptrdiff_t>(end);
  std::sort(first, last, [&](std::uint32_t x, std::uint32_t y) { return key(x) < key(y); });
  const double n = static_cast<double>(end - begin);
  for (std::size_t i = begin; i < end;) {
    std::size_t j = i;
    while (j < end && key(order[j]) == key(order[i])) ++j;
    const double rank = (static_cast<double>(i + j) / 2 - static_cast<double>(begin)) / n - 0.5;
    for (; i < j; ++i) put(order[i], static_cast<float>(rank));
  }
}

// KeptSample::parted.
std::int64_t parted_at(const KeptTokens& kept, const KeptSample& sample) {
  constexpr std::size_t kFewestEqual = 8;
  const auto differs = [&](std::size_t i) { return std::fabs(kept.tokens[i].d) > kept.untouched; };
  // For good: a single token that stands out is rounding's own tail.
  const auto parts = [&](std::size_t i) {
    const std::size_t end = std::min(i + kFewestEqual, sample.end);
    std::size_t count = 0;
    for (std::size_t j = i; j < end; ++j) count += differs(j);
    return differs(i) && 2 * count >= end - i;
  };
  std::size_t i = sample.begin;
  while (i < sample.end && !parts(i)) ++i;
  if (i == sample.end || i < sample.begin + kFewestEqual) return -1;
  // Equal, not noise that ends a little below what counts as different.
  const auto equal =
      std::count_if(kept.tokens.begin() + static_cast<std::ptrdiff_t>(sample.begin),
                    kept.tokens.begin() + static_cast<std::ptrdiff_t>(i),
                    [&](const Token& token) { return std::fabs(token.d) <= kept.untouched / 10; });
  if (4 * static_cast<std::size_t>(equal) < 3 * (i - sample.begin)) return -1;
  return kept.tokens[i].position;
}

}  // namespace

void KeptTokens::add(const Pair& pair) {
  // Which samples are kept must not depend on their order alone: a period in the file would be a bias.
  if (mix64(++seen_) % keep_one_in_ != 0) return;
  KeptSample sample{tokens.size(),  0, pair.document_tokens, pair.document_in_row, pair.row_first,
                    pair.row_tokens};
  for (std::size_t i = 0; i < pair.train.size(); ++i) {
    Token token{};
    token.train = static_cast<float>(pair.train[i]), token.rollout = static_cast<float>(pair.rollout[i]);
    token.d = static_cast<float>(pair.train[i] - pair.rollout[i]);
    token.position = static_cast<std::int32_t>(std::clamp<std::int64_t>(pair.positions[i], 0, 1 << 30));
    if (!pair.ids.empty())
      token.id = static_cast<std::uint32_t>(mix64(static_cast<std::uint64_t>(pair.ids[i])) | 1);
    if (!pair.rerouted.empty()) token.rerouted = static_cast<std::uint8_t>(std::ceil(255 * pair.rerouted[i]));
    tokens.push_back(token);
  }
  sample.end = tokens.size();
  samples.push_back(sample);
  has_routes |= !pair.rerouted.empty(), has_ids |= !pair.ids.empty();
  while (tokens.size() > kMostTokens && samples.size() > 1) thin();
}

void KeptTokens::thin() {
  keep_one_in_ *= 2, thinned = true;
  std::size_t to = 0, kept = 0;
  // Every other one of those that were kept: a subset of what the finer sieve would have let through on
  // average.
  for (std::size_t s = 0; s < samples.size(); s += 2) {
    KeptSample sample = samples[s];
    const std::size_t length = sample.end - sample.begin;
    std::move(tokens.begin() + static_cast<std::ptrdiff_t>(sample.begin),
              tokens.begin() + static_cast<std::ptrdiff_t>(sample.end),
              tokens.begin() + static_cast<std::ptrdiff_t>(to));
    sample.begin = to, sample.end = to += length;
    samples[kept++] = sample;
  }
  samples.resize(kept), tokens.resize(to);
}

void KeptTokens::rank() {
  std::vector<float> sizes;
  sizes.reserve(tokens.size());
  for (const Token& token : tokens) sizes.push_back(std::fabs(token.d));
  untouched = kUntouchedShare * static_cast<float>(quantile(sizes, 0.95));
  for (KeptSample& sample : samples) sample.parted = parted_at(*this, sample);
  std::vector<std::uint32_t> order(tokens.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto level = [&](std::uint32_t i) { return tokens[i].train + tokens[i].rollout; };
  std::sort(order.begin(), order.end(),
            [&](std::uint32_t x, std::uint32_t y) { return level(x) < level(y); });
  const std::size_t bins = std::clamp<std::size_t>(tokens.size() / kBinTokens, 1, kMostBins);
  for (std::size_t bin = 0; bin < bins; ++bin) {
    const std::size_t begin = bin * tokens.size() / bins, end = (bin + 1) * tokens.size() / bins;
    rank_range(
        order, begin, end, [&](std::uint32_t i) { return std::abs(tokens[i].d); },
        [&](std::uint32_t i, float rank) { tokens[i].rank = rank; });
    rank_range(
        order, begin, end, [&](std::uint32_t i) { return tokens[i].d; },
        [&](std::uint32_t i, float rank) { tokens[i].signed_rank = rank; });
  }
}

}  // namespace meshparity::drift

// One sample: where the two sides' tokens meet, and which slots count.
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "harness/drift/pairing.h"
#include "harness/types/error.h"
#include "harness/types/generator.h"

namespace meshparity::drift {
namespace {

// A logprob this low belongs to no token that was sampled: a fill, or a token that the sampler masked.
constexpr double kFill = -1000;
constexpr std::size_t kGram = 4;

std::uint64_t gram_hash(const std::int64_t* ids) {
  std::uint64_t hash = 0;
  for (std::size_t i = 0; i < kGram; ++i)
    hash = mix64(hash ^ (static_cast<std::uint64_t>(ids[i]) + 0x9E3779B97F4A7C15ull));
  return hash;
}

// Share of the experts that the other side did not choose at their place or a neighbouring one: two that are
// nearly as probable change places without any harm.
float share_rerouted(const std::int64_t* train, const std::int64_t* rollout, std::size_t width) {
  std::size_t other = 0;
  for (std::size_t i = 0; i < width; ++i)
    other += train[i] != rollout[i] && (i == 0 || train[i] != rollout[i - 1]) &&
             (i + 1 == width || train[i] != rollout[i + 1]);
  return static_cast<float>(other) / static_cast<float>(width);
}

// What a shift by `offset` (slot i of train is slot i + offset of rollout) makes equal.
struct Overlap {
  std::size_t begin = 0, end = 0, equal = 0;
};

Overlap overlap_at(const std::vector<std::int64_t>& train, const std::vector<std::int64_t>& rollout,
                   std::int64_t offset) {
  Overlap found;
  const auto n = static_cast<std::int64_t>(train.size()), m = static_cast<std::int64_t>(rollout.size());
  const std::int64_t begin = std::max<std::int64_t>(0, -offset), end = std::min(n, m - offset);
  if (begin >= end) return found;
  found.begin = static_cast<std::size_t>(begin), found.end = static_cast<std::size_t>(end);
  for (std::int64_t i = begin; i < end; ++i)
    found.equal += train[static_cast<std::size_t>(i)] == rollout[static_cast<std::size_t>(i + offset)];
  return found;
}

bool good(const Overlap& overlap, std::size_t shorter) {
  const std::size_t length = overlap.end - overlap.begin;
  return overlap.equal * 10 >= length * 9 && overlap.equal * 2 >= shorter && overlap.equal > 0;
}

// The shift that most pairs of equal 4-grams vote for. False where none makes nine of ten slots equal.
bool find_offset(const std::vector<std::int64_t>& train, const std::vector<std::int64_t>& rollout,
                 std::int64_t& offset) {
  const std::size_t shorter = std::min(train.size(), rollout.size());
  offset = 0;
  if (good(overlap_at(train, rollout, 0), shorter)) return true;
  std::unordered_map<std::int64_t, std::size_t> votes;
  if (shorter < 2 * kGram) {
    for (auto d = -static_cast<std::int64_t>(train.size()); d <= static_cast<std::int64_t>(rollout.size());
         ++d)
      if (const auto equal = overlap_at(train, rollout, d).equal) votes[d] = equal;
  } else {
    std::unordered_map<std::uint64_t, std::int64_t> places;  // -1: more than one
    for (std::size_t i = 0; i + kGram <= train.size(); ++i) {
      const auto [at, fresh] = places.emplace(gram_hash(&train[i]), static_cast<std::int64_t>(i));
      if (!fresh) at->second = -1;
    }
    for (std::size_t i = 0; i + kGram <= rollout.size(); ++i)
      if (const auto at = places.find(gram_hash(&rollout[i])); at != places.end() && at->second >= 0)
        ++votes[static_cast<std::int64_t>(i) - at->second];
  }
  std::size_t most = 0;
  for (const auto& [shift, count] : votes)
    if (count > most || (count == most && std::abs(shift) < std::abs(offset))) most = count, offset = shift;
  return most > 0 && good(overlap_at(train, rollout, offset), shorter);
}

void check_finite(const std::string& name, const char* side, std::size_t slot, double value) {
  if (std::isnan(value) || value == HUGE_VAL)
    throw InputError(name + ": " + side + " logprobs: slot " + std::to_string(slot) + " holds " +
                     (std::isnan(value) ? "NaN" : "+infinity") + " and counts");
}

// Whether a slot's value is a fill; counts it.
bool is_fill(double value, bool train, PairingCounts& counts) {
  if (value > kFill) return false;
  if (std::isinf(value)) {
    ++(train ? counts.minus_infinite_train : counts.minus_infinite_rollout);
  } else {
    ++(train ? counts.fill_train : counts.fill_rollout);
    counts.fill_value = value;
  }
  return true;
}

// Without any mask, zeros at the ends are prompt and padding: NeMo-RL and verl write 0 there.
void trim_ends(const LogprobSide& train, const LogprobSide& rollout, std::int64_t offset, Overlap& part,
               PairingCounts& counts) {
  if (train.has_mask || rollout.has_mask) return;
  const auto zero = [&](std::size_t i) {
    return train.logprobs[i] == 0 ||
           rollout.logprobs[static_cast<std::size_t>(static_cast<std::int64_t>(i) + offset)] == 0;
  };
  std::size_t begin = part.begin, end = part.end;
  while (begin < end && zero(begin)) ++begin;
  while (end > begin && zero(end - 1)) --end;
  // One zero is a certain token; a whole sample of zeros is judged, not hidden.
  if (begin == end) return;
  const bool first_alone = part.begin == 0 && begin == 1 &&
                           train.logprobs[0] == rollout.logprobs[static_cast<std::size_t>(offset)];
  if (begin - part.begin >= 2 || first_alone) counts.trimmed += begin - part.begin, part.begin = begin;
  if (part.end - end >= 2) counts.trimmed += part.end - end, part.end = end;
}

}  // namespace

Pair align(const std::string& name, const LogprobSide& train, const LogprobSide& rollout,
           PairingCounts& counts) {
  Pair pair;
  pair.name = name;
  std::int64_t offset = 0;
  Overlap part{0, std::min(train.logprobs.size(), rollout.logprobs.size()), 0};
  const bool ids = !train.ids.empty() && !rollout.ids.empty();
  if (ids) {
    if (!find_offset(train.ids, rollout.ids, offset)) return pair;
    part = overlap_at(train.ids, rollout.ids, offset);
  } else if (train.logprobs.size() != rollout.logprobs.size()) {
    return pair;
  }
  if (offset != 0) ++counts.offset_samples, counts.offset_example = offset;
  trim_ends(train, rollout, offset, part, counts);
  const bool routes = train.route_width > 0 && train.route_width == rollout.route_width;
  const std::vector<std::int64_t>& names = train.ids.empty() ? rollout.ids : train.ids;
  const LogprobSide& placed = train.document_tokens >= rollout.document_tokens ? train : rollout;
  const std::int64_t first = &placed == &train ? train.first : rollout.first - offset;
  pair.document_tokens = std::max(placed.document_tokens, first + static_cast<std::int64_t>(part.end));
  for (std::size_t i = part.begin; i < part.end; ++i) {
    const auto j = static_cast<std::size_t>(static_cast<std::int64_t>(i) + offset);
    if (ids && train.ids[i] != rollout.ids[j]) {
      ++counts.other_tokens;
      continue;
    }
    const bool a = train.mask[i] != 0, b = rollout.mask[j] != 0;
    counts.mask_union += a || b;
    if (train.has_mask && rollout.has_mask) counts.mask_differs += a != b;
    if (!a || !b) {
      ++counts.masked;
      continue;
    }
    check_finite(name, "train", i, train.logprobs[i]), check_finite(name, "rollout", j, rollout.logprobs[j]);
    const bool fill_a = is_fill(train.logprobs[i], true, counts),
               fill_b = is_fill(rollout.logprobs[j], false, counts);
    ++counts.tokens;
    if (fill_a || fill_b) continue;
    const double most = std::max(train.logprobs[i], rollout.logprobs[j]);
    counts.positive += most > 1e-5, counts.very_positive += most > 0.05;
    pair.train.push_back(train.logprobs[i]), pair.rollout.push_back(rollout.logprobs[j]);
    pair.positions.push_back(first + static_cast<std::int64_t>(i));
    if (!names.empty()) pair.ids.push_back(names[&names == &train.ids ? i : j]);
    if (routes) {
      const auto width = static_cast<std::size_t>(train.route_width);
      pair.rerouted.push_back(share_rerouted(&train.routes[i * width], &rollout.routes[j * width], width));
    }
  }
  return pair;
}

}  // namespace meshparity::drift

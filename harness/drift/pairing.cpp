#include "harness/drift/pairing.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "harness/types/error.h"
#include "harness/types/generator.h"

namespace meshparity::drift {
namespace {

// Where a sample of the other file is.
struct Place {
  std::uint32_t unit = 0, index = 0;
};

// Two dumps may pad a sample differently or hold its prompt or not, so samples are found by the smallest
// hashes of their 8-grams: what both hold a run of, both have the same hashes of.
constexpr std::size_t kSketchGram = 8, kSketch = 8, kMostCandidates = 256;

std::uint64_t hash_ids(const std::int64_t* ids, std::size_t count) {
  std::uint64_t hash = 0xCBF29CE484222325ull;
  for (std::size_t i = 0; i < count; ++i) hash = mix64(hash ^ static_cast<std::uint64_t>(ids[i])) + i;
  return hash;
}

std::vector<std::uint64_t> sketch_of(const std::vector<std::int64_t>& ids) {
  if (ids.size() <= kSketchGram) return {hash_ids(ids.data(), ids.size())};
  std::vector<std::uint64_t> hashes;
  for (std::size_t i = 0; i + kSketchGram <= ids.size(); ++i) {
    const std::uint64_t hash = hash_ids(&ids[i], kSketchGram);
    if (hashes.size() == kSketch && hash >= hashes.back()) continue;
    const auto at = std::lower_bound(hashes.begin(), hashes.end(), hash);
    if (at != hashes.end() && *at == hash) continue;
    hashes.insert(at, hash);
    if (hashes.size() > kSketch) hashes.pop_back();
  }
  return hashes;
}

// The side that a file given as --train (or --rollout) speaks of.
const LogprobSide& side_of(const LogprobSample& sample, bool train) {
  const LogprobSide& named = train ? sample.train : sample.rollout;
  if (named.present()) return named;
  if (sample.only.present()) return sample.only;
  return train ? sample.rollout : sample.train;
}

class Index {
 public:
  explicit Index(const SampleSource& source) : source_(source) {
    for (std::size_t unit = 0; unit < source.units(); ++unit) {
      const auto batch = source.load(unit);
      for (std::size_t i = 0; i < batch->size(); ++i)
        add(batch->sample(i), {static_cast<std::uint32_t>(unit), static_cast<std::uint32_t>(i)});
    }
    used_.assign(places_.size(), 0);
  }

  std::size_t size() const { return places_.size(); }
  bool has_ids() const { return with_ids_ > 0; }
  bool used(std::size_t at) const { return used_[at]; }
  void use(std::size_t at) { used_[at] = 1; }

  LogprobSample read(std::size_t at) const {
    const Place place = places_[at];
    if (!batch_ || unit_ != place.unit) batch_ = source_.load(place.unit), unit_ = place.unit;
    return batch_->sample(place.index);
  }

  // Candidates that are not used yet: exact matches, else those that share most of the sketch first.
  std::vector<std::size_t> candidates(const std::vector<std::int64_t>& ids) const {
    std::vector<std::size_t> found;
    const auto [begin, end] = exact_.equal_range(hash_ids(ids.data(), ids.size()));
    for (auto at = begin; at != end && found.empty(); ++at)
      if (!used_[at->second]) found.push_back(at->second);
    if (!found.empty()) return found;
    std::unordered_map<std::size_t, std::size_t> shared;
    for (const std::uint64_t hash : sketch_of(ids)) {
      const auto [first, last] = sketches_.equal_range(hash);
      for (auto at = first; at != last && shared.size() < kMostCandidates; ++at)
        if (!used_[at->second]) ++shared[at->second];
    }
    for (const auto& [at, count] : shared) found.push_back(at);
    std::sort(found.begin(), found.end(), [&](std::size_t a, std::size_t b) {
      return std::pair(shared[b], a) < std::pair(shared[a], b);
    });
    return found;
  }

 private:
  void add(const LogprobSample& sample, Place place) {
    const auto at = static_cast<std::uint32_t>(places_.size());
    places_.push_back(place);
    const LogprobSide& side = side_of(sample, false);
    if (side.ids.empty()) return;
    ++with_ids_;
    exact_.emplace(hash_ids(side.ids.data(), side.ids.size()), at);
    for (const std::uint64_t hash : sketch_of(side.ids)) sketches_.emplace(hash, at);
  }

  const SampleSource& source_;
  std::vector<Place> places_;
  std::vector<std::uint8_t> used_;
  std::unordered_multimap<std::uint64_t, std::uint32_t> exact_, sketches_;
  std::size_t with_ids_ = 0;
  mutable std::shared_ptr<const SampleBatch> batch_;
  mutable std::size_t unit_ = 0;
};

class Pairing {
 public:
  explicit Pairing(const std::function<void(const Pair&)>& take) : take_(take) {}
  PairingCounts counts;

  bool wrong(const LogprobSample& sample) {
    if (sample.wrong.empty()) return false;
    if (!counts.wrong_lengths++) counts.wrong_example = sample.name + ": " + sample.wrong[0];
    return true;
  }

  bool offer(const LogprobSample& train, const LogprobSide& a, const LogprobSide& b) {
    PairingCounts before = counts;
    Pair pair = align(train.name, a, b, counts);
    if (pair.train.empty() && counts.tokens == before.tokens && counts.masked == before.masked) {
      counts = before;
      return false;
    }
    ++counts.paired;
    counts.without_ids += a.ids.empty() || b.ids.empty();
    pair.document_in_row = train.document_in_row, pair.row_first = train.row_first,
    pair.row_tokens = train.row_tokens;
    count_duplicate(pair);
    if (!pair.train.empty()) take_(pair);
    return true;
  }

 private:
  void count_duplicate(const Pair& pair) {
    if (pair.train.size() < 8) return;  // short answers repeat by themselves
    std::uint64_t hash = hash_ids(pair.ids.data(), pair.ids.size());
    for (const double value : pair.rollout) {
      std::uint64_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      hash = mix64(hash ^ bits) + 1;
    }
    counts.duplicates += !seen_.insert(hash).second;
  }

  const std::function<void(const Pair&)>& take_;
  std::unordered_set<std::uint64_t> seen_;
};

void pair_by_ids(const LogprobSample& sample, Index& index, Pairing& pairing) {
  const LogprobSide& a = side_of(sample, true);
  for (const std::size_t at : index.candidates(a.ids)) {
    const LogprobSample other = index.read(at);
    if (!other.wrong.empty() || !pairing.offer(sample, a, side_of(other, false))) continue;
    index.use(at);
    return;
  }
  ++pairing.counts.unmatched;
}

void pair_in_order(const LogprobSample& sample, std::size_t at, Index& index, Pairing& pairing) {
  if (at >= index.size()) {
    ++pairing.counts.unmatched;
    return;
  }
  const LogprobSample other = index.read(at);
  if (pairing.wrong(other)) return;
  if (!pairing.offer(sample, side_of(sample, true), side_of(other, false))) {
    if (!pairing.counts.wrong_lengths++)
      pairing.counts.wrong_example =
          sample.name + ": has " + std::to_string(side_of(sample, true).logprobs.size()) +
          " logprobs, its counterpart " + std::to_string(side_of(other, false).logprobs.size()) +
          ", and there are no token ids to align them";
  }
}

void refuse_nothing(const PairingCounts& counts, const std::string& train, const std::string& rollout) {
  const std::string both = rollout.empty() ? train : train + " and " + rollout;
  if (counts.paired == 0 && counts.wrong_lengths > 0)
    throw InputError(both + ": no sample can be compared: " + counts.wrong_example);
  if (counts.paired == 0)
    throw InputError(both + ": share no tokens: none of " + std::to_string(counts.samples_train) + " and " +
                     std::to_string(counts.samples_rollout) + " samples have a counterpart");
  if (counts.tokens == 0)
    throw InputError(both + ": no token counts: masks leave none of " + std::to_string(counts.masked));
}

}  // namespace

PairingCounts for_each_pair(const SampleSource& train, const SampleSource* rollout,
                            const std::function<void(const Pair&)>& take) {
  Pairing pairing(take);
  std::unique_ptr<Index> index;
  if (rollout) index = std::make_unique<Index>(*rollout), pairing.counts.samples_rollout = index->size();
  for (std::size_t unit = 0; unit < train.units(); ++unit) {
    const auto batch = train.load(unit);
    for (std::size_t i = 0; i < batch->size(); ++i) {
      const LogprobSample sample = batch->sample(i);
      const std::size_t number = pairing.counts.samples_train++;
      if (pairing.wrong(sample)) continue;
      if (!index) {
        if (!sample.train.present() && !sample.rollout.present() && !sample.only.present()) {
          ++pairing.counts.unmatched;  // an empty answer
          continue;
        }
        if (!sample.train.present() || !sample.rollout.present())
          throw InputError(sample.name + ": holds " +
                           std::string(sample.train.present()     ? "no rollout"
                                       : sample.rollout.present() ? "no train"
                                                                  : "one kind of") +
                           " logprobs; name the other side's file (--train A --rollout B)");
        if (!pairing.offer(sample, sample.train, sample.rollout) && !pairing.counts.wrong_lengths++)
          pairing.counts.wrong_example =
              sample.name + ": train has " + std::to_string(sample.train.logprobs.size()) +
              " logprobs, rollout " + std::to_string(sample.rollout.logprobs.size());
      } else if (!side_of(sample, true).ids.empty() && index->has_ids()) {
        pair_by_ids(sample, *index, pairing);
      } else {
        pair_in_order(sample, number, *index, pairing);
      }
    }
  }
  if (!rollout) pairing.counts.samples_rollout = pairing.counts.samples_train;
  refuse_nothing(pairing.counts, train.name(), rollout ? rollout->name() : "");
  return pairing.counts;
}

}  // namespace meshparity::drift

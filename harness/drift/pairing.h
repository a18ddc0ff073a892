// Pairs the samples of a trainer's dump with those of a sampler's by token ids, slot by slot.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "harness/types/drift_result.h"
#include "harness/types/logprob_sample.h"

namespace meshparity::drift {

// Slots of one sample that both sides have and count, in order. Vectors of equal length.
struct Pair {
  std::string name;
  std::vector<double> train, rollout;   // finite
  std::vector<std::int64_t> ids;        // empty where no side has them
  std::vector<std::int64_t> positions;  // index of the token in its document
  std::vector<float> rerouted;          // share of the experts that the two sides chose otherwise; empty
                                        // without routes
  std::int64_t document_tokens = 0, document_in_row = -1, row_first = 0, row_tokens = 0;
};

// What pairing met, summed over samples.
struct PairingCounts {
  std::uint64_t samples_train = 0, samples_rollout = 0, paired = 0, without_ids = 0;
  std::uint64_t unmatched = 0;      // samples without a counterpart
  std::uint64_t wrong_lengths = 0;  // samples whose lengths fit nothing
  std::string wrong_example;
  std::uint64_t offset_samples = 0;  // paired at another slot: prompt or padding on one side
  std::int64_t offset_example = 0;
  std::uint64_t tokens = 0, other_tokens = 0;  // compared; slots in the overlap whose ids differ
  std::uint64_t masked = 0, trimmed = 0;  // not counted by a mask; zeros at the ends where no file has a mask
  std::uint64_t mask_differs = 0, mask_union = 0;
  std::uint64_t positive = 0, very_positive = 0, duplicates = 0;
  std::uint64_t minus_infinite_train = 0, minus_infinite_rollout = 0;
  std::uint64_t fill_train = 0, fill_rollout = 0;  // one value <= -1000 again and again
  double fill_value = 0;
};

// The two sides of one sample, slot by slot. Empty (and counted) where they share no tokens. Throws
// InputError naming the sample for NaN or +infinity in a slot that counts.
Pair align(const std::string& name, const LogprobSide& train, const LogprobSide& rollout,
           PairingCounts& counts);

// Calls `take` for every pair. With one source (rollout null) its samples hold both sides. Throws InputError
// where there is nothing to compare: no common sample, or no token that counts.
PairingCounts for_each_pair(const SampleSource& train, const SampleSource* rollout,
                            const std::function<void(const Pair&)>& take);

}  // namespace meshparity::drift

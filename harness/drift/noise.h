// Is this drift above the noise? Compares a pair's differences with those of a second run of one side.
#pragma once

#include "harness/types/drift_result.h"
#include "harness/types/logprob_sample.h"

namespace meshparity::drift {

// `train` and `rollout` (null: `train` holds both) as for analyse; `noise` is a second run of the trainer, or
// of the sampler where `of_rollout`. Compares per-sample medians of |d|; a sample is a cluster. Throws
// InputError where the noise run shares no tokens with its side.
DriftNoise compare_with_noise(const SampleSource& train, const SampleSource* rollout,
                              const SampleSource& noise, bool of_rollout);

// The same of any two pairs: is the first pair further apart than the second?
DriftNoise compare_spreads(const SampleSource& train, const SampleSource* rollout, const SampleSource& run,
                           const SampleSource* other_run);

}  // namespace meshparity::drift

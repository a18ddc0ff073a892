// Stretches of tokens that may be taken for independent of each other.
#pragma once

#include <algorithm>
#include <cstddef>

#include "harness/drift/tokens.h"

namespace meshparity::drift {

// Every sample, or its blocks of so many tokens where there are few samples: each(begin, end, sample).
template <class Each>
void for_each_cluster(const KeptTokens& kept, Each each) {
  constexpr std::size_t kBlock = 512, kFewSamples = 16;
  const bool blocks = kept.samples.size() < kFewSamples;
  for (const KeptSample& sample : kept.samples)
    for (std::size_t begin = sample.begin; begin < sample.end;) {
      const std::size_t end = blocks ? std::min(begin + kBlock, sample.end) : sample.end;
      each(begin, end, sample);
      begin = end;
    }
}

}  // namespace meshparity::drift

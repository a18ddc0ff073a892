// What an engine says of the tokens it was given: their log-probabilities, and those of a sampler that takes
// only the most probable tokens. Legend: T tokens, Vl this rank's rows of the vocabulary, from `begin` on. In
// nats; in the logits' dtype. The vocabulary is never gathered for the first; for the second it is, so many
// tokens at a time.
#pragma once

#include "impl/blocks/primitives.h"
#include "impl/rollout/edit.h"

namespace meshparity::impl {

struct SampledTokens {
  Collectives& collectives;
  const Group& tp;
  const Primitives& primitives;
  at::Tensor labels;  // [T], negative: none
  std::int64_t begin = 0;
  std::vector<std::int64_t> vocabulary_sizes;  // rows of every tp rank

  // Of logits [T, Vl] divided by `temperature`. The set: the smallest one of most probable tokens that holds
  // `top_p` of the probability; among equals the smaller id is the more probable. top_p of 1: all tokens.
  SampledLogprobs sample(const at::Tensor& logits, double temperature, double top_p) const;

 private:
  at::Tensor logprobs(const at::Tensor& logits) const;
};

}  // namespace meshparity::impl

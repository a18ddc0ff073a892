// The tokens that the tests of structure look at: all of them up to kMostTokens, else whole samples drawn
// evenly.
#pragma once

#include <cstdint>
#include <vector>

#include "harness/drift/pairing.h"

namespace meshparity::drift {

inline constexpr std::size_t kMostTokens = 4'000'000;

// One compared token.
struct Token {
  float train, rollout, d;    // d is rounded after the subtraction
  float rank = 0;             // of |d| among tokens of like logprob, in (-1/2, 1/2)
  float signed_rank = 0;      // of d, likewise
  std::uint32_t id = 0;       // hash of the token id, 0 = unknown
  std::int32_t position = 0;  // in its document
  std::uint8_t rerouted = 0;  // share of the experts chosen otherwise, in 255ths, rounded up
};

struct KeptSample {
  std::size_t begin = 0, end = 0;  // tokens
  std::int64_t document_tokens = 0, document_in_row = -1, row_first = 0, row_tokens = 0;
  // Position of the token at which the sides part, where they are the same before; -1 where they never were.
  // Set by rank().
  std::int64_t parted = -1;
};

class KeptTokens {
 public:
  void add(const Pair& pair);
  // Ranks |d| and d within bins of equal (train + rollout)/2, so that what a logprob's size does to its error
  // is no structure. Call once, after the last pair.
  void rank();

  std::vector<Token> tokens;
  std::vector<KeptSample> samples;
  // |d| up to which a token is the same on both sides: where two engines in low precision agree bit for bit
  // until a first number is rounded the other way, the tokens before it say nothing about size. Set by
  // rank().
  float untouched = 0;
  bool has_routes = false, has_ids = false, thinned = false;

 private:
  void thin();
  std::uint64_t keep_one_in_ = 1, seen_ = 0;
};

}  // namespace meshparity::drift

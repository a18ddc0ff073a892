// Whether the occurrences of a token id agree across samples: an analysis of variance by id.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "harness/types/drift_result.h"

namespace meshparity::drift {

// Sums products of signed ranks over all pairs of occurrences of an id in different samples. Where samples
// are independent of each other their mean is zero, whatever happens within a sample.
class TokenAgreement {
 public:
  // Sum of the centred signed ranks of `count` occurrences of an id in one sample; once per id and sample.
  void add(std::uint32_t id, double sum, double count);
  // Mean correlation over pairs, every id weighted by its occurrences, and its probability by chance.
  void conclude(DriftTest& test) const;

 private:
  struct Sums {
    double sum = 0, square = 0, fourth = 0, count = 0, count_square = 0;
  };
  std::unordered_map<std::uint32_t, Sums> by_id_;
};

}  // namespace meshparity::drift

// Many tensors taken as one long vector, projected on what they should be: the factor they have in common.
#pragma once

#include <cmath>
#include <string>

#include "harness/types/tensor.h"

namespace meshparity::compare {

struct Projection {
  double got_want = 0, want_want = 0, got_got = 0;

  // Both of the same shape, of any floating dtype.
  void add(const TensorView& got, const TensorView& want);
  // <got, want> / <want, want>: how often got holds want. Not finite where nothing is wanted and something
  // came.
  double factor() const { return got_want / want_want; }
  // 1 where got is a positive multiple of want.
  double cosine() const { return got_want / std::sqrt(got_got * want_want); }
};

// "all gradients together are 2 times the expected ones", or how far they are from any multiple of them.
std::string scale_words(const Projection& gradients);

}  // namespace meshparity::compare

// Terms of the loss that are no cross entropy, of one token. Source: design.md 5.
#pragma once

#include <algorithm>

#include "reference/oracle/activations.h"
#include "reference/oracle/cross_entropy.h"

namespace meshparity::oracle {

// min(rho A, clip(rho, 0.8, 1.2) A) with rho = exp(logprob - old_logprob): what a policy gradient maximises.
template <class Scalar>
Scalar clipped_objective(const Scalar& logprob, double advantage, double old_logprob) {
  using std::exp;
  const Scalar ratio = exp(logprob - Scalar(old_logprob));
  const Scalar clipped = value_of(ratio) < 0.8 ? Scalar(0.8) : value_of(ratio) > 1.2 ? Scalar(1.2) : ratio;
  const Scalar free = ratio * Scalar(advantage), held = clipped * Scalar(advantage);
  return value_of(free) < value_of(held) ? free : held;
}

template <class Scalar>
Scalar squared_log_sum_exp(const Vector<Scalar>& logits) {
  const Scalar lse = log_sum_exp(logits);
  return lse * lse;
}

}  // namespace meshparity::oracle

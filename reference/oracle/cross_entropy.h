// Log-probability of a label, in nats. Source: design.md 5.
#pragma once

#include "reference/oracle/activations.h"
#include "reference/oracle/dual.h"

namespace meshparity::oracle {

template <class Scalar>
Scalar label_logprob(const Vector<Scalar>& logits, std::int64_t label) {
  return logits[label] - log_sum_exp(logits);
}

}  // namespace meshparity::oracle

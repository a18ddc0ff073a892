// The router of one token: the weights are a softmax over the chosen logits alone, which is what
// renormalising the softmax over all experts comes to. Source: qwen35.md 1.6.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "reference/oracle/activations.h"
#include "reference/oracle/dual.h"

namespace meshparity::oracle {

template <class Scalar>
struct Route {
  std::vector<Eigen::Index> experts;  // largest logit first
  Vector<Scalar> weights;
};

template <class Scalar>
Route<Scalar> route(const Vector<Scalar>& logits, std::int64_t experts_per_token) {
  using std::exp;
  std::vector<Eigen::Index> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return value_of(logits[a]) > value_of(logits[b]); });
  order.resize(experts_per_token);
  Vector<Scalar> weights(experts_per_token);
  for (Eigen::Index i = 0; i < weights.size(); ++i) weights[i] = logits[order[i]];
  const Scalar lse = log_sum_exp(weights);
  for (Scalar& weight : weights) weight = exp(weight - lse);
  return {order, weights};
}

}  // namespace meshparity::oracle

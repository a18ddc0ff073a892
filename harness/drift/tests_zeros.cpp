// Logprobs that are exactly 0 on one side: a mask's fills, or a probability that top-p made 1.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "harness/drift/quantile.h"
#include "harness/drift/tests.h"
#include "harness/drift/text.h"

namespace meshparity::drift {
namespace {

// No rounding turns a probability below 0.999 into exactly 1, nor does a sampler's top-p one that is far
// below the others.
constexpr float kUncertain = -1e-3F, kImprobable = -0.5F;

// Of the tokens that one side holds for uncertain: how many are exactly 0 on the other side.
struct Zeros {
  double zeros = 0, improbable_zeros = 0;  // improbable: below 0.61 on the uncertain side
  double others = 0, improbable_others = 0;

  void add(float uncertain, float maybe_zero) {
    if (uncertain >= kUncertain) return;
    const bool zero = maybe_zero >= 0;
    (zero ? zeros : others) += 1;
    if (uncertain < kImprobable) (zero ? improbable_zeros : improbable_others) += 1;
  }
  // Zeros stand where the other side is nearly certain as well, as top-p's do; a mask's stand anywhere.
  bool at_certain_tokens() const {
    return zeros > 0 && improbable_zeros * others < 0.5 * improbable_others * zeros;
  }
};

struct BothSides {
  Zeros train, rollout;  // zeros in that side

  explicit BothSides(const KeptTokens& kept) {
    for (const Token& token : kept.tokens)
      train.add(token.rollout, token.train), rollout.add(token.train, token.rollout);
  }
};

}  // namespace

DriftTest test_top_p(const KeptTokens& kept) {
  // Of low precision's noise there may be more than of top-p's difference: only the zeros are surely its.
  constexpr double kFewestZeros = 30, kLeastShare = 0.01;
  DriftTest test = bounded("top-p renormalised", "share of the zeros of uncertain tokens on one side", 0.98);
  const BothSides sides(kept);
  const bool in_rollout = sides.rollout.zeros >= sides.train.zeros;
  const Zeros &one = in_rollout ? sides.rollout : sides.train,
              &other = in_rollout ? sides.train : sides.rollout;
  const double zeros = one.zeros + other.zeros, share = zeros > 0 ? one.zeros / zeros : 0;
  // Were either side's zeros as likely, a share this high would have probability 2 exp(-2 n (share - 1/2)^2)
  // at most (Hoeffding).
  const double p = zeros > 0 ? std::min(1.0, 2 * std::exp(-2 * zeros * (share - 0.5) * (share - 0.5))) : 1;
  conclude(test, share, p, static_cast<std::uint64_t>(zeros));
  test.fired = test.fired && one.zeros >= std::max(kFewestZeros, kLeastShare * (one.zeros + one.others)) &&
               one.at_certain_tokens();
  std::vector<float> sizes;
  for (const Token& token : kept.tokens) sizes.push_back(std::abs(token.d));
  const double most = quantile(sizes, 0.99);
  test.detail = std::string(in_rollout ? "rollout" : "train") + " is exactly 0 for " +
                text("%.0f", one.zeros) + " tokens where the other is not";
  if (most <= 0.75)
    test.detail += ", 99 % of the differences are below " + text("%.2g", most) + " (top-p near " +
                   text("%.2f", std::exp(-most)) + ")";
  return test;
}

DriftTest test_fill(const KeptTokens& kept) {
  DriftTest test = bounded("mask", "tokens with exactly 0 on one side and below -0.5 on the other", 4, 1);
  const BothSides sides(kept);
  // One such token is no accident, four are a pattern.
  test.effect = sides.train.improbable_zeros + sides.rollout.improbable_zeros;
  test.p = test.effect > 0 ? 0 : 1, test.ran = true, test.clusters = kept.tokens.size();
  const bool in_train = sides.train.improbable_zeros > sides.rollout.improbable_zeros;
  const Zeros& one = in_train ? sides.train : sides.rollout;
  test.fired = test.effect >= test.effect_bound && !one.at_certain_tokens();
  test.detail = "zeros in " + std::string(in_train ? "train" : "rollout") + " logprobs where tokens count";
  return test;
}

}  // namespace meshparity::drift

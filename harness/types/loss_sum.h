// A loss as it is written on a command line: one term or a weighted sum of terms. What a term means: design,
// "Loss". To add a term: its name in kLossPolicies (batch.h) or kOtherLossTerms, then its formula in
// reference/blocks and in impl/train.
#pragma once

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/model_config.h"

namespace meshparity {

// Terms beside the policies, in the order in which they are listed. The last two are means over the decisions
// of all routers and need a mixture of experts.
inline constexpr std::array<const char*, 5> kOtherLossTerms = {"policy_gradient", "lm_z", "mtp", "router_z",
                                                               "aux"};

struct LossSum {
  struct Term {
    std::string name;
    double weight = 1;
    bool operator==(const Term&) const = default;
  };
  std::vector<Term> terms;  // at least one, no name twice

  double weight(const std::string& name) const;  // 0 where the sum has no such term
  bool has(const std::string& name) const { return weight(name) != 0; }
  bool of_router() const { return has("router_z") || has("aux"); }
  // How large the sum is where its terms have these values: weighted, without their signs.
  template <class ValueOf>
  double size(ValueOf&& value_of) const {
    double sum = 0;
    for (const Term& term : terms) sum += term.weight * std::fabs(value_of(term.name));
    return sum;
  }
  // What a run with this loss reports: every policy, then the other terms of the sum.
  std::vector<std::string> reported() const;
  bool operator==(const LossSum&) const = default;
};

// "token_mean", "token_mean+0.001*aux". Weights are positive. Throws InputError naming the part that is
// wrong.
LossSum parse_loss(const std::string& text);

// Why this loss cannot be taken of that model; empty where it can.
std::string loss_refusal(const LossSum& loss, const ModelConfig& config);

}  // namespace meshparity

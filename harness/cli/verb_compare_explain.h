// The lines `first` and `cause` of a failing dump, as far as one dump can tell: it names no ranks, so what
// differs between ranks stays unknown, and what it holds no activations of is placed by logits and gradients.
#pragma once

#include "harness/cli/verb_compare_judge.h"

namespace meshparity::cli {

// Adds the lines to every failing verdict of `results` (those of judge_dump on the same two files). Changes
// no verdict. Without a configuration and a batch on either side there is no order to speak of, and no line.
void explain_dump(const golden::Store& got, const golden::Store& want, const CompareRules& rules,
                  std::vector<CheckResult>& results);

}  // namespace meshparity::cli

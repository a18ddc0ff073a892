// What a planted fault does to the gradient norm while the loss stays as it is: the overall ratio and the
// pattern over parameter families. `meshparity faults ratios`.
#pragma once

#include <map>
#include <string>

#include "harness/types/case.h"
#include "harness/types/tensor.h"

namespace meshparity::cli {

// A parameter's family: its name without the numbers of its layer and expert ("layers.*.mlp.gate.weight").
std::string parameter_family(const std::string& name);

struct GradientRatios {
  double loss_change = 0;                  // |got - want| / |want| of the case's loss
  bool equal_loss = false;                 // within the bound that the case's judge uses
  double overall = 1;                      // ||g|| got / want over all parameters
  double reported = 1;                     // the norm that the ranks report, got / want
  std::map<std::string, double> families;  // the same per family; infinite where only want is zero
  std::string failed;                      // why the case could not be judged, else empty
};

// Runs the case with and judges it against its scenario. Throws InputError for a case that cannot be.
GradientRatios gradient_ratios(const CaseSpec& spec);

// Could a model with these ratios per family show `ratio` overall? The square of the overall ratio is the
// mean of the squared family ratios weighted by each family's share of the squared norm, so another model,
// whose shares are others, can show what lies between the smallest and the largest family ratio, and nothing
// else. `slack` widens both ends: a figure printed as 1.13 is 1.125 to 1.135.
bool can_show(const GradientRatios& ratios, double ratio, double slack);

}  // namespace meshparity::cli

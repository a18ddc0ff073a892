// The rows of scenarios/tolerance.toml as plain values: the scenarios loader reads them, harness/tolerance
// turns them into bounds. To add a check: a row in tolerance.toml and its derivation in docs/tolerance.md.
#pragma once

#include <map>
#include <string>

namespace meshparity::tolerance {

// One row "check/dtype" of tolerance.toml.
struct Row {
  double relative = 0;  // times the tensor's norm, or times the floor's scale where that is larger
  // Where > 0, instead of `relative`: relative = condition * unit roundoff * rounding_growth, the square root
  // of the longest single reduction times the depth over five layers (at least 1).
  double condition = 0;
  double floor =
      0;  // least scale: times grad_norm (grads), nats (logprobs, loss), times the largest element (others)
  double cap = 1e-9;  // no element's bound may exceed cap * largest element (grads: or cap * floor *
                      // grad_norm); 0: none
  std::string doc;    // anchor in docs/tolerance.md
};

struct Policy {
  std::map<std::string, Row> rows;
};

}  // namespace meshparity::tolerance

// Shrinks a failing case: the smallest mesh, flags, batch and model that a greedy search finds which still
// fails in the same way. Knows cases only by their options; what "fails" means is the caller's.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "harness/run/case_options.h"

namespace meshparity::run {

// How much a case holds: ranks, axes, flags that are not the default, layers, sizes beyond a shape's
// defaults, tokens, documents, rows, micro-batches, steps. A named model or batch counts as nothing: it
// cannot shrink.
std::int64_t size_of(const CaseSpec& spec);

// Cases one reduction smaller than this one, each valid, most promising first: an axis gone or of a smaller
// size, a flag at its default, a document, row, micro-batch or layer less, a size nearer to its default, ...
// Flags that a smaller mesh ignores take their default. Only a model "shape:..." and a batch "tokens:..." are
// made smaller.
using ConfigOf = std::function<ModelConfig(const std::string& model, const std::string& golden)>;
std::vector<CaseSpec> smaller_cases(const CaseSpec& spec, const ConfigOf& config_of);

struct ShrinkLimits {
  double seconds = 60;        // no trial begins later
  std::size_t trials = 600;   // cases given to `fails`
  std::size_t together = 24;  // cases given to it at a time
};

struct Shrunk {
  CaseSpec spec;           // the smallest found; the one given where nothing smaller fails
  std::size_t trials = 0;  // cases that were tried
  bool minimal = false;    // no single reduction of `spec` fails any more; false where a limit was reached
};

// Greedy delta debugging. `fails` answers for every case given whether it fails as `failing` does; it is not
// asked about `failing` itself. The same search for the same answers, except for the limit of time.
Shrunk shrink(const CaseSpec& failing, const ConfigOf& config_of,
              const std::function<std::vector<bool>(const std::vector<CaseSpec>&)>& fails,
              const ShrinkLimits& limits = {});

}  // namespace meshparity::run

// Synthetic series of steps with a known answer, from a seed: flat ones of five kinds of noise, jumps,
// growth, steps apart and spikes. They prove the verdict's rules, not that real series look so.
#pragma once

#include <string>
#include <vector>

#include "harness/drift/synthetic.h"

namespace meshparity::drift {

struct SyntheticSeries {
  std::string kind;
  std::string cause;        // what the verdict must say
  std::int64_t bad = 0;     // number of the first bad step; 0: none
  std::int64_t within = 0;  // how far from it a verdict may be (growth has no sharp start)
  std::vector<std::shared_ptr<MemorySource>> steps;  // numbers 1, 2, ...
};

std::vector<std::string> series_kinds(bool flat);
SyntheticSeries make_series(const std::string& kind, std::uint64_t seed);

}  // namespace meshparity::drift

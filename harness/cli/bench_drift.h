// The blind set of `drift`: pairs made by running faulty and sound models, judged without knowing which.
#pragma once

#include <cstdint>
#include <string>

namespace meshparity::cli {

struct DriftBench {
  std::uint64_t seed = 1000;  // of the first pair; thresholds were fixed on seeds below 1000
  int faulty = 42, benign = 21;
  std::string kind;   // this one alone
  bool show = false;  // the whole report of every pair that is judged wrong
};

// Prints a line per pair and what was named right and blamed wrongly. 1 where fewer than 90 % of the faults
// are named or a benign pair is blamed, else 0.
int bench_drift(const DriftBench& bench);

}  // namespace meshparity::cli

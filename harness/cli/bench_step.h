// How the cost of one training step grows with ranks and length, per way to run GatedDeltaNet over context
// ranks: `meshparity bench step`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace meshparity::cli {

struct StepBench {
  std::string model;                  // as --model
  std::vector<int> ranks;             // context ranks, each >= 2
  std::vector<std::int64_t> lengths;  // tokens of the one document
  int repeats = 3;                    // the fastest counts
};

// Prints one line per gdn value, rank count and length: wall time of forward and backward over all ranks as
// threads, processor time of all ranks and of the busiest one as multiples of one rank's in the same run, and
// the elements that left the busiest rank. Values a mesh cannot take (heads where they do not divide) are
// named with their reason. Throws InputError for a model that cannot be loaded.
void bench_step(const StepBench& bench);

}  // namespace meshparity::cli

// The reference's forward and backward of a published size beside Hugging Face transformers' eager model on
// the same cores. `meshparity bench reference`.
#pragma once

#include <string>

namespace meshparity::cli {

struct ReferenceBench {
  std::string model = "text:qwen3.5-0.8b";
  int tokens = 256;  // of the one document
  int threads = 0;   // of each side, 0 = one per core
  int repeats = 3;   // the fastest counts
};

// Both in float32 with the same weights, each in a process of its own, one after the other. Prints seconds,
// their ratio and the most memory each process held. Returns 0, or 1 where their losses differ by more than
// rounding explains: such a time counts for nothing. Throws InputError without a Python that has
// transformers, RunError where a side fails.
int bench_reference(const ReferenceBench& bench);

}  // namespace meshparity::cli

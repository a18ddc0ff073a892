// Synthetic pairs of dumps with a known answer, from a seed: benign noise of many kinds, and faults by the
// shape they give to differences. They prove the verdict's rules, not that real faults have these shapes
// (docs/drift.md#synthetic).
#pragma once

#include <string>
#include <vector>

#include "harness/types/logprob_sample.h"

namespace meshparity::drift {

// Samples held in memory.
class MemorySource : public SampleSource, public std::enable_shared_from_this<MemorySource> {
 public:
  MemorySource(std::string name, std::vector<LogprobSample> samples)
      : name_(std::move(name)), samples_(std::move(samples)) {}
  std::size_t units() const override { return 1; }
  std::shared_ptr<const SampleBatch> load(std::size_t unit) const override;
  std::string name() const override { return name_; }
  std::string format() const override { return "memory"; }
  std::vector<std::string> notes() const override { return {}; }
  std::vector<LogprobSample>& samples() { return samples_; }

 private:
  class Batch;
  std::string name_;
  std::vector<LogprobSample> samples_;
};

struct SyntheticPair {
  std::string kind;    // "benign-student-t", "layout-zigzag", ...
  std::string cause;   // what the verdict must say
  std::string detail;  // and name, where not empty ("zigzag cp=4")
  std::shared_ptr<MemorySource> source;
};

std::vector<std::string> synthetic_kinds(bool benign);
// The same seed, kind and run give the same pair; another run of them draws other tokens and noise by the
// same recipe.
SyntheticPair make_synthetic(const std::string& kind, std::uint64_t seed, std::uint64_t run = 0);

}  // namespace meshparity::drift

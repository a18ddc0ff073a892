// Pairs of logprob dumps with a known answer, made by running our own model: a trainer and a rollout that
// drew the tokens, with a planted fault on one side or with nothing but other dtypes. What `bench drift`
// judges blind.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "harness/drift/synthetic.h"

namespace meshparity::cli {

struct RunPair {
  std::string kind;     // "layout-zigzag", "benign-policies", ...
  std::string cause;    // what the verdict must be
  std::string detail;   // what its sentence must name, where not empty ("cp=3")
  std::string made_of;  // in words: meshes, policies, fault
  std::shared_ptr<drift::MemorySource> source;
};

// The kinds there are, benign or faulty, in a fixed order.
std::vector<std::string> run_pair_kinds(bool benign);

// The pair of a kind and a seed: model weights, lengths, tokens, meshes and dtypes are drawn from it. Throws
// InputError for an unknown kind.
RunPair make_run_pair(const std::string& kind, std::uint64_t seed);

}  // namespace meshparity::cli

// Pairwise covers: a selection of cases in which every pair of values that can meet at all meets at least
// once, and every mesh of every model occurs. Most faults of a parallel configuration need two values
// together; this finds them at a hundredth of the product's cost.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "harness/run/case_options.h"

namespace meshparity::run {

// The factors of a case by name ("dp" -> "2", "gdn" -> "heads", "model" -> "tiny-moe"): what pairs are made
// of.
std::vector<std::pair<std::string, std::string>> factors_of(const CaseSpec& spec);

// "gdn=heads with tp=4".
struct Pair {
  std::string first, second;  // "gdn=heads", "tp=4"
  bool operator<(const Pair& other) const {
    return first != other.first ? first < other.first : second < other.second;
  }
  bool operator==(const Pair& other) const = default;
};
// Every pair of values of different factors that meets in one of the cases.
std::vector<Pair> pairs_of(const std::vector<CaseSpec>& cases);

// A selection of `all`, in its order: every mesh of every model, then greedily whatever meets most pairs that
// have not met. The same selection for the same input.
std::vector<CaseSpec> cover(const std::vector<CaseSpec>& all);

// Pairs that meet in `all` and not in `chosen`.
std::vector<Pair> missing_pairs(const std::vector<CaseSpec>& all, const std::vector<CaseSpec>& chosen);

// Pairs of the values that occur in `all` which never meet in it, each with the reason: the ranks it would
// need, the flag that would change nothing, or the model's refusal. Throws RunError where there is none,
// which means that a possible pair is missing from `all`.
struct Impossible {
  Pair pair;
  std::string reason;
};
std::vector<Impossible> impossible_pairs(
    const std::vector<CaseSpec>& all,
    const std::function<ModelConfig(const std::string& model, const std::string& golden)>& config_of);

}  // namespace meshparity::run

#include "harness/cli/random_gate.h"

#include <algorithm>
#include <set>

#include "harness/cli/case_arguments.h"
#include "harness/run/random_cases.h"
#include "harness/types/error.h"

namespace meshparity::cli {
namespace {

// A trial is smaller than the case that failed, and waiting for one that hangs costs the search its time.
constexpr double kTrialSeconds = 30;

std::set<std::string> failing_checks(const CaseResult& result) {
  std::set<std::string> names;
  for (const auto& check : result.checks)
    if (check.state == State::fail || check.state == State::invalid) names.insert(check.check);
  return names;
}

}  // namespace

run::Expansion random_cases(const run::CaseOptions& options, int count) {
  if (options.seed < 0) throw InputError("--seed must not be negative, is " + std::to_string(options.seed));
  if (!options.rollout_mesh.empty() || !options.rollout.empty())
    throw InputError("--random with --rollout-mesh: random cases are not rolled out");
  require_batches(options);
  run::Expansion expansion;
  std::set<std::string> lines;
  for (int i = 0; i < count; ++i) {
    CaseSpec spec = run::random_case(options, static_cast<std::uint64_t>(options.seed),
                                     static_cast<std::uint64_t>(i), config_of);
    if (lines.insert(spec.line()).second) expansion.cases.push_back(std::move(spec));
  }
  return expansion;
}

run::Shrunk shrink_case(const CaseSpec& spec, const CaseResult& result, const SweepOptions& options,
                        const run::ShrinkLimits& limits) {
  const bool ended = result.state == State::error || result.state == State::timeout;
  const auto failing = failing_checks(result);
  const auto same = [&](const CaseResult& other) {
    if (ended) return other.state == result.state;
    const auto names = failing_checks(other);
    return std::any_of(names.begin(), names.end(), [&](const auto& name) { return failing.count(name) > 0; });
  };
  SweepOptions trial = options;
  trial.explain = false;
  trial.timeout_seconds = std::min(options.timeout_seconds, kTrialSeconds);
  const auto fails = [&](const std::vector<CaseSpec>& cases) {
    std::vector<bool> answers;
    for (const auto& other : sweep(cases, trial, [](const CaseResult&) {})) answers.push_back(same(other));
    return answers;
  };
  return run::shrink(spec, config_of, fails, limits);
}

}  // namespace meshparity::cli

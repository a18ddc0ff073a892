#include "harness/cli/verb_drift_series.h"

#include <chrono>
#include <map>
#include <memory>

#include "golden/dumps/dump.h"
#include "golden/dumps/patterns.h"
#include "harness/drift/drift.h"
#include "harness/drift/series.h"
#include "harness/types/error.h"

namespace meshparity::cli {
namespace {

struct StepPair {
  const dumps::StepFiles* train = nullptr;
  const dumps::StepFiles* rollout = nullptr;
};

// Reads one step's files, both sides of them, and hands the sources on.
template <class Use>
void with_sources(const StepPair& pair, Use use) {
  const auto train = dumps::open_dump(pair.train->name, pair.train->files);
  const auto rollout = pair.rollout ? dumps::open_dump(pair.rollout->name, pair.rollout->files) : nullptr;
  use(*train, rollout.get());
}

}  // namespace

SeriesResult judge_drift_series(const std::string& both, const std::string& train,
                                const std::string& rollout) {
  const auto start = std::chrono::steady_clock::now();
  const bool two = both.empty();
  const auto first = dumps::find_steps(two ? train : both);
  const auto second = two ? dumps::find_steps(rollout) : std::vector<dumps::StepFiles>{};
  std::map<std::int64_t, StepPair> pairs;
  for (const auto& step : first) pairs[step.number].train = &step;
  for (const auto& step : second) pairs[step.number].rollout = &step;
  std::vector<std::string> notices, left_out;
  std::vector<std::int64_t> numbers;
  for (const auto& [number, pair] : pairs) numbers.push_back(number);
  if (const std::string missing = drift::missing_numbers(numbers); !missing.empty())
    notices.push_back(missing);
  std::vector<drift::StepData> steps;
  std::vector<StepPair> read;
  for (const auto& [number, pair] : pairs) {
    if (!pair.train || (two && !pair.rollout)) {
      left_out.push_back("step " + std::to_string(number) + ": no " + (pair.train ? "rollout" : "train") +
                         " file, left out");
      continue;
    }
    try {
      with_sources(pair, [&](const SampleSource& a, const SampleSource* b) {
        steps.push_back(drift::read_step(number, pair.train->name, a, b));
      });
      read.push_back(pair);
    } catch (const InputError& error) {
      left_out.push_back("step " + std::to_string(number) + " left out: " + error.what());
    }
  }
  const std::string what = two ? train + " and " + rollout : both;
  if (steps.size() < drift::kFewestSteps || steps.size() * 2 < pairs.size())
    throw InputError(what + ": " + std::to_string(steps.size()) + " of " + std::to_string(pairs.size()) +
                     " steps can be read, " +
                     (steps.size() < drift::kFewestSteps ? "a series needs 3" : "fewer than half") +
                     (left_out.empty() ? "" : "; " + left_out[0]));
  SeriesResult result = drift::judge_series(steps);
  notices.insert(notices.end(), left_out.begin(), left_out.end());
  result.notices = std::move(notices);
  with_sources(read[static_cast<std::size_t>(result.judged)],
               [&](const SampleSource& a, const SampleSource* b) {
                 result.judged_verdict = drift::analyse(a, b).verdict;
               });
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace meshparity::cli

// Runs one case: its ranks on an engine, then the judge.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "harness/cli/clock.h"
#include "harness/cli/scenario.h"
#include "harness/types/case.h"
#include "harness/types/tensor.h"
#include "harness/types/verdict.h"

namespace meshparity::cli {

// What a run may leave behind besides its verdict.
struct RunProducts {
  std::string dump;                      // file for what the ranks computed, in the golden schema; or empty
  std::string* communication = nullptr;  // what left every rank as a table, beside what was planned
  // The ranks' weights put together, by name: after the last step, or as loaded where there is none.
  std::map<std::string, HostTensor>* weights = nullptr;
  std::string rollout_dump;  // of a rollout case: file for what its engine computed, or empty
};

// Runs and judges one case. A rank that fails gives State::error with the reason; bad input throws
// InputError.
CaseResult run_case(const CaseSpec& spec, const RunProducts& products = {});

// Writes global tensors, by path below /expected, beside the scenario's inputs in the golden schema.
void write_dump(const std::string& file, const CaseSpec& spec, const Scenario& scenario,
                std::map<std::string, HostTensor> tensors);

// The result of a case that began at `start`, its line, id and time filled in around `body`, which judges.
// What `body` throws is the result's reason, State::error; but InputError goes on.
CaseResult conduct(const CaseSpec& spec, Clock::time_point start,
                   const std::function<void(CaseResult& result)>& body);

// The state of a case whose checks are judged: that of its worst; UNTRUSTED where there is none.
void conclude(CaseResult& result);

}  // namespace meshparity::cli

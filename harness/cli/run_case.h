// Runs one case: its ranks on an engine, then the judge.
#pragma once

#include <map>
#include <string>

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
};

// Runs and judges one case. A rank that fails gives State::error with the reason; bad input throws
// InputError.
CaseResult run_case(const CaseSpec& spec, const RunProducts& products = {});

// The state of a case whose checks are judged: that of its worst; UNTRUSTED where there is none.
void conclude(CaseResult& result);

}  // namespace meshparity::cli

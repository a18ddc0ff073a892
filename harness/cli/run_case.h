// Runs one case: its ranks on an engine, then the judge.
#pragma once

#include <string>

#include "harness/types/case.h"
#include "harness/types/verdict.h"

namespace meshparity::cli {

// Runs and judges one case. A rank that fails gives State::error with the reason; bad input throws
// InputError. With `dump`, what the ranks computed is written there in the golden schema; with
// `communication`, what left every rank is put there as a table, beside what was planned.
CaseResult run_case(const CaseSpec& spec, const std::string& dump = "", std::string* communication = nullptr);

}  // namespace meshparity::cli

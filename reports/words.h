// Words and numbers as every report prints them. Add a formatting rule here when two reports need it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "harness/types/verdict.h"

namespace meshparity::reports {

// The value of --name in a case line, or empty.
std::string option_of(const std::string& case_line, const std::string& name);
// The case line without its --check and --tensor, then those two: what re-runs one verdict.
std::string rerun_line(const CaseResult& result, const std::string& check, const std::string& tensor);
// "mesh=tp2 dtype=float64 ": how a case is named in one line beside its id.
std::string case_words(const CaseResult& result);

// Everything on one line: line ends and other control characters become blanks.
std::string one_line(std::string_view text);
std::string scientific(double value);        // "-3.1250e-02"
std::string short_scientific(double value);  // "1.8e-03"
// A share of a bound: "12 %" up to the bound, "3.0x" beyond.
std::string share_of_bound(double bound_used);

bool is_bad(State state);  // anything but PASS, SKIP, WAIVED

// The verdict that used most of its bound over all cases; `check` empty = over all checks. Null pointers if
// there is none.
struct Worst {
  const CaseResult* result = nullptr;
  const CheckResult* check = nullptr;
};
Worst worst_of(std::span<const CaseResult> cases, const std::string& check);
// The names of the checks in the order in which they first occur.
std::vector<std::string> checks_of(std::span<const CaseResult> cases);

}  // namespace meshparity::reports

#include "harness/types/verdict.h"

#include <cstdio>

#include "harness/types/error.h"
#include "harness/types/generator.h"

namespace meshparity {
namespace {

constexpr std::string_view kStates[] = {"PASS",      "FAIL",   "SKIP",  "INVALID",
                                        "UNTRUSTED", "WAIVED", "ERROR", "TIMEOUT"};
// A case takes the most severe state of its checks.
constexpr int kSeverity[] = {1, 5, 0, 6, 4, 2, 8, 7};

}  // namespace

std::string_view state_name(State state) {
  return kStates[static_cast<int>(state)];
}

State parse_state(std::string_view name) {
  for (int i = 0; i < 8; ++i)
    if (kStates[i] == name) return static_cast<State>(i);
  throw InputError("state '" + std::string(name) + "' is unknown");
}

bool worse(State a, State b) {
  return kSeverity[static_cast<int>(a)] > kSeverity[static_cast<int>(b)];
}

int exit_code(const std::vector<CaseResult>& cases) {
  bool failed = false, errored = false, compared = false;
  for (const auto& c : cases) {
    failed |= c.state == State::fail || c.state == State::invalid || c.state == State::untrusted;
    errored |= c.state == State::error || c.state == State::timeout;
    compared |= c.state == State::pass || c.state == State::waived;
  }
  if (errored) return 3;
  return failed || !compared ? 1 : 0;
}

std::string case_hash(std::string_view case_line) {
  // FNV-1a alone leaves lines that differ near their end alike in the high digits.
  const std::uint64_t hash = mix64(name_hash(case_line));
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(hash));
  return text;
}

std::string case_id(std::string_view case_line) {
  return case_hash(case_line).substr(0, 7);
}

}  // namespace meshparity

// What a judge says about one tensor, one case, one run. A mismatch is a value of these types, never an
// exception.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace meshparity {

// INVALID: wrong shape, dtype, missing, extra or non-finite; counts as failure. UNTRUSTED: nothing in the
// check could have differed. SKIP always has a reason. WAIVED: a known failure listed in a baseline.
enum class State { pass, fail, skip, invalid, untrusted, waived, error, timeout };
std::string_view state_name(State state);  // "PASS", "FAIL", ...
State parse_state(std::string_view name);  // throws InputError
// Is `a` worse than `b` when a case takes the worst state of its checks?
bool worse(State a, State b);

// One tensor of one check.
struct CheckResult {
  std::string check;   // logits, logprobs, loss, grads, grad_norm, weights, replicas, placement, activations
  std::string tensor;  // golden path below /expected without the check's own prefix: "model.norm.weight"
  State state = State::pass;
  double bound_used = 0;  // largest difference / bound: 1 = at the bound
  double max_abs = 0;
  double max_rel = 0;   // relative L2: ||got - want|| / ||want||
  std::string where;    // place of the worst element, global and local: "[17,402] on tp1 local [17,146]"
  std::string reason;   // why it is not PASS, in one line
  std::string against;  // what provided want: golden, reference (live), ranks (replicas), plan (placement)
  std::int64_t elements = 0, outside = 0, nonfinite = 0;
  std::int64_t worst = -1;              // flat index of the worst element
  double got = 0, want = 0, bound = 0;  // at the worst element
  std::vector<std::string> detail;  // indented lines of the failing-case block, "where   ...", "cause   ..."
};

// What a part of a case took.
struct PartCost {
  std::string part;  // "reference: step", "ranks: step", ...
  double seconds = 0;
  // Most memory that the part's process had held until then (VmHWM of Linux); 0: unknown.
  std::int64_t peak_bytes = 0;
  bool operator==(const PartCost&) const = default;
};

struct CaseResult {
  std::string id;         // short hash of the case line
  std::string case_line;  // the line that re-runs it
  State state = State::error;
  double seconds = 0;
  std::string reason;  // for SKIP, ERROR, TIMEOUT
  std::string shrunk;  // the line of a smaller case that fails in the same way, where one was looked for
  std::vector<CheckResult> checks;
  std::vector<PartCost> costs;  // of a case whose parts are measured (--apart)
};

// Exit code of a set of cases: 0 all pass; 1 FAIL, INVALID or UNTRUSTED; 3 ERROR or TIMEOUT; an empty run, or
// one in which everything was skipped, is 1. 3 over 1 over 0 (2, wrong input, is thrown as InputError).
int exit_code(const std::vector<CaseResult>& cases);

// 64-bit hash of the line, 16 hexadecimal digits; the same on every machine.
std::string case_hash(std::string_view case_line);
// Its first 7 digits: a case's short name in reports.
std::string case_id(std::string_view case_line);

}  // namespace meshparity

// docs/faults.md: every planted fault with what shows it, and every row of the public list that waits for an
// axis. `meshparity faults run --markdown FILE` writes it; a test holds its columns that no run decides.
#pragma once

#include <string>
#include <vector>

#include "harness/types/verdict.h"
#include "scenarios/faults/fault.h"

namespace meshparity::cli {

// What a run of one fault showed.
struct FaultRun {
  const faults::Fault* fault = nullptr;
  std::string case_line;               // without the fault
  const CheckResult* named = nullptr;  // the failing tensor a person would name; null if none
  std::string first;                   // "forward, layers.0.mixer, token 3 ..."
  std::string cause;                   // the cause that the failing block names
  double confidence = 0;
  bool twin_green = false;
  std::vector<State> exact;  // with the fault, in the cases in which it is no mistake

  bool caught() const { return named && twin_green; }
  bool cause_right() const;
  // A wrong name said with confidence sends people to the wrong place.
  bool misled() const;
};

// Takes `first` and `cause` out of the failing verdict's detail.
void read_explanation(const CheckResult& check, FaultRun& run);

// The cells of a fault's row that no run decides: id, mechanism, detected by, meshes, where it is exact.
std::string static_cells(const faults::Fault& fault);
std::string faults_markdown(const std::vector<FaultRun>& runs);

}  // namespace meshparity::cli

// Runs many cases over worker processes and reports each as it ends: the engine of gate, faults run and bench
// sweep.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "harness/types/case.h"
#include "harness/types/verdict.h"

namespace meshparity::cli {

struct SweepOptions {
  int jobs = 0;                  // 0 = one per core
  double timeout_seconds = 120;  // per case
  bool explain = true;           // look for the cause of what fails, which runs it once more
  std::size_t memory_bytes = std::size_t{12} << 30;
};

// Tells a worker the folder that all workers of a sweep share.
inline constexpr char kSharedFolderVariable[] = "MESHPARITY_SHARED_FOLDER";

// Set for a worker that looks for no causes.
inline constexpr char kNoCausesVariable[] = "MESHPARITY_NO_CAUSES";

// Results in the order of `cases`; `done` sees each as it ends (finishing order). A worker that dies is
// State::error with the signal, one that hangs State::timeout; the others go on. Throws run::Interrupted
// after SIGINT, SIGTERM or SIGHUP, once all workers and the shared folder are gone.
std::vector<CaseResult> sweep(const std::vector<CaseSpec>& cases, const SweepOptions& options,
                              const std::function<void(const CaseResult&)>& done);

}  // namespace meshparity::cli

// The reference in a process of its own, for models that fill the memory: it draws the weights, computes, and
// leaves both on the disk; what it held is free before the ranks begin. Its parent maps the file and never
// opens HDF5.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "harness/cli/mapped_reference.h"
#include "harness/types/verdict.h"

namespace meshparity::cli {

// What the `reference` command is asked for.
struct ReferenceJob {
  std::string case_line;
  std::string folder;        // gets reference.h5 (weights/<name>, expected/<key>) and index.json
  int threads = 1;           // of LibTorch
  int draws = 0;             // perturbed runs from which the conditions are measured
  int repeats = 1;           // of the step, each also forward alone: the fastest counts
  bool keep_results = true;  // else only the loss is kept, and nothing but that and the weights is written
  long parent = 0;
};

// Body of the `reference` command. Killed when `job.parent` ends.
int reference_main(const ReferenceJob& job);

// What the process left.
struct ReferenceRun {
  std::unique_ptr<MappedReference> results;
  std::map<std::string, double> conditions;  // by check, where job.draws > 0
  std::vector<PartCost> costs;               // in the order of the work
  double loss = 0;                           // of the case's --loss, in nats
};

// Starts the process and waits for it. job.folder must exist; job.parent is set here. Throws RunError with
// what the process said where it fails, run::Interrupted after a signal.
ReferenceRun run_reference_process(ReferenceJob job);

}  // namespace meshparity::cli

// Ranks as processes: the same rank program under --engine gloo (or nccl) --spawn N, on loopback.
#pragma once

#include <string>
#include <vector>

#include "harness/types/case.h"
#include "impl/train/program.h"

namespace meshparity::cli {

// What ranks started by run_spawned may take.
inline constexpr double kSpawnTimeoutSeconds = 120;

enum class RankProgram { train, rollout };

// Ranks that a case's program needs.
int world_of(const CaseSpec& spec, RankProgram program);

// Starts one process per rank (this executable's `rank` command), waits, and reads what each emitted. Throws
// RunError naming the rank and the last lines of its stderr when one fails; the others are then ended.
std::vector<impl::RankOutput> run_spawned(const CaseSpec& spec, double timeout_seconds,
                                          RankProgram program = RankProgram::train);

// Body of the `rank` command: runs one rank and writes its output to `out_file`. Killed when `parent` ends.
int rank_main(const std::string& case_line, RankProgram program, int rank, const std::string& store_file,
              const std::string& out_file, long parent);

}  // namespace meshparity::cli

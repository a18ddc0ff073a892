// Runs job lines in worker processes started by exec (never forked after LibTorch started). A worker that
// dies, hangs or exhausts memory costs its job, not the run. Lines in, lines out: this folder knows no case
// and no JSON schema.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace meshparity::run {

struct WorkerCommand {
  std::vector<std::string>
      argv;  // argv[0] is the executable; it reads job lines on stdin and answers one line each
  std::vector<std::string> environment;  // NAME=value added to ours
  std::size_t memory_bytes = 0;          // RLIMIT_DATA, 0 = none
};

struct Options {
  int jobs = 2;
  double timeout_seconds = 120;       // per job, a new worker's start included; 0 or less = none
  std::size_t jobs_per_worker = 200;  // a worker is replaced after so many (leaks stay bounded)
  std::function<bool()> stop = {};    // asked at least five times a second; true ends the run early
};

enum class Ending { answered, died, timed_out };

struct Outcome {
  std::size_t job = 0;  // index into the lines given
  Ending ending = Ending::answered;
  std::string answer;       // the line the worker wrote (answered)
  std::string what;         // "killed by SIGSEGV", "exited with 3", "no answer within 120 s"
  std::string stderr_tail;  // last 4 KiB the worker wrote to stderr for this job
  double seconds = 0;
};

// How a worker learns its memory limit and who started it: posix_spawn can tell the kernel neither, so the
// worker does (apply_worker_limits).
inline constexpr char kMemoryVariable[] = "MESHPARITY_RLIMIT_DATA";
inline constexpr char kParentVariable[] = "MESHPARITY_PARENT";

// Runs all lines over `options.jobs` workers; calls `done` in the caller's thread, one outcome per job in
// finishing order. Returning false from `done` stops early. Throws RunError if a worker cannot be started at
// all. Call it from a thread that outlives the workers: they die with the thread that started them.
void run_jobs(const std::vector<std::string>& lines, const WorkerCommand& command, const Options& options,
              const std::function<bool(const Outcome&)>& done);

// Called first in a worker's main: limits RLIMIT_DATA to MESHPARITY_RLIMIT_DATA bytes (0 or absent: no limit;
// sanitizer builds: never, their shadow memory counts), writes no core file, and dies with the process that
// started it. Does nothing where the variable is absent. Throws InputError if it is no number, RunError if
// the limit cannot be set.
void apply_worker_limits();

// The calling process is killed when its parent ends, however that ends; at once if `parent` has ended
// already.
void die_with_parent(long parent);

}  // namespace meshparity::run

// Ctrl-C and its kin as a value: work that owns processes and temporary folders asks for it, ends them, and
// only then leaves. Whoever catches Interrupted last (main) ends the program by the same signal.
#pragma once

#include <string>

namespace meshparity::run {

// No std::exception on purpose: a handler that turns failures into verdicts must not take it for one.
struct Interrupted {
  int signal = 0;
  std::string what;  // "interrupted by SIGINT after 3 of 258 cases"
};

// While one lives, a first SIGINT, SIGTERM or SIGHUP is only noted; the same again ends the program at once.
// A signal that is ignored (nohup) stays so. One at a time: signals belong to the process.
class Interruption {
 public:
  Interruption();
  ~Interruption();
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;

  // The signal that came, 0 = none.
  static int signal();
  // Throws Interrupted if one came; `progress` says how far the work is ("3 of 258 cases").
  static void check(const std::string& progress);
};

// Ends the program by the signal, as its parent expects of an interrupted program.
[[noreturn]] void end_by_signal(int signal);

}  // namespace meshparity::run

// The limits a worker puts on itself before it does anything else. Kept apart from the scheduler: this code
// runs in the worker, the rest of the folder in the process that starts it.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string>

#include "harness/run/scheduler.h"
#include "harness/types/error.h"

namespace meshparity::run {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kShadowMemory = true;
#else
constexpr bool kShadowMemory = false;
#endif

template <class Number>
Number number_of(const char* variable, const char* text, const char* wanted) {
  Number value = 0;
  const char* end = text + std::strlen(text);
  const auto parsed = std::from_chars(text, end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end)
    throw InputError("environment", variable, "got '" + std::string(text) + "', want " + wanted);
  return value;
}

}  // namespace

void die_with_parent(long parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // Where the parent ended before that call, no signal will come.
  if (getppid() != parent) _exit(1);
}

void apply_worker_limits() {
  const char* text = std::getenv(kMemoryVariable);
  if (!text) return;
  const auto bytes = number_of<std::size_t>(kMemoryVariable, text, "a number of bytes");

  // 1, not 0: the kernel also skips a core handler behind a pipe then. A crash of LibTorch would write
  // gigabytes.
  rlimit core = {1, 1};
  setrlimit(RLIMIT_CORE, &core);
  // A hung worker does not read the end of its stdin; without this it would outlive a killed gate.
  if (const char* parent = std::getenv(kParentVariable))
    die_with_parent(number_of<long>(kParentVariable, parent, "a process number"));

  if (bytes == 0 || kShadowMemory) return;
  rlimit data = {};
  getrlimit(RLIMIT_DATA, &data);
  data.rlim_cur = data.rlim_max == RLIM_INFINITY ? bytes : std::min<rlim_t>(bytes, data.rlim_max);
  if (setrlimit(RLIMIT_DATA, &data) != 0)
    throw RunError("cannot limit the worker's memory to " + std::to_string(bytes) +
                   " bytes: " + std::strerror(errno));
}

}  // namespace meshparity::run

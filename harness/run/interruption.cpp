#include "harness/run/interruption.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <iterator>

namespace meshparity::run {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};

std::atomic<int> noted{0};
static_assert(std::atomic<int>::is_always_lock_free, "written by a signal handler");
struct sigaction before[std::size(kSignals)];

void note(int signal) {
  noted = signal;
}

}  // namespace

Interruption::Interruption() {
  noted = 0;
  struct sigaction action = {};
  action.sa_handler = note;
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // the same signal again meets the default
  for (std::size_t i = 0; i < std::size(kSignals); ++i) {
    sigaction(kSignals[i], nullptr, &before[i]);
    if (before[i].sa_handler != SIG_IGN) sigaction(kSignals[i], &action, nullptr);
  }
}

Interruption::~Interruption() {
  for (std::size_t i = 0; i < std::size(kSignals); ++i)
    if (before[i].sa_handler != SIG_IGN) sigaction(kSignals[i], &before[i], nullptr);
}

int Interruption::signal() {
  return noted;
}

void Interruption::check(const std::string& progress) {
  const int number = noted;
  if (number == 0) return;
  throw Interrupted{number, "interrupted by SIG" + std::string(sigabbrev_np(number)) + " after " + progress};
}

void end_by_signal(int signal) {
  ::signal(signal, SIG_DFL);
  raise(signal);
  _exit(128 + signal);  // the first process of a container is spared signals it does not handle
}

}  // namespace meshparity::run

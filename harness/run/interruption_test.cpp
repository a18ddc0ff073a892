// What a signal, or the death of the process that started them, does to workers: they end, and nothing is
// left.
#include "harness/run/interruption.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>

#include "harness/run/scheduler.h"

namespace meshparity::run {
namespace {

constexpr char kPidFile[] = "MESHPARITY_TEST_PID_FILE";

// The status of a child that runs `body`.
int status_of(const std::function<void()>& body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

// Ended, or a zombie that its new parent has not collected.
bool is_gone(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(file, text)) return true;
  const auto name_end = text.rfind(") ");
  return name_end != std::string::npos && text[name_end + 2] == 'Z';
}

bool within(double seconds, const std::function<bool()>& condition) {
  const auto start = std::chrono::steady_clock::now();
  while (!condition()) {
    if (std::chrono::steady_clock::now() - start > std::chrono::duration<double>(seconds)) return false;
    usleep(2000);
  }
  return true;
}

std::string self() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  return std::string(path, static_cast<std::size_t>(length > 0 ? length : 0));
}

}  // namespace

TEST_CASE("a signal is noted while somebody asks for it, and met by its old handler afterwards") {
  struct sigaction before = {}, after = {};
  sigaction(SIGTERM, nullptr, &before);
  {
    const Interruption interruption;
    CHECK(Interruption::signal() == 0);
    CHECK_NOTHROW(Interruption::check("0 of 2 cases"));
    raise(SIGTERM);
    CHECK(Interruption::signal() == SIGTERM);
    try {
      Interruption::check("1 of 2 cases");
      FAIL_CHECK("nothing thrown");
    } catch (const Interrupted& interrupted) {
      CHECK(interrupted.signal == SIGTERM);
      CHECK(interrupted.what == "interrupted by SIGTERM after 1 of 2 cases");
    }
  }
  sigaction(SIGTERM, nullptr, &after);
  CHECK(after.sa_handler == before.sa_handler);
  const Interruption next;
  CHECK(Interruption::signal() == 0);
}

TEST_CASE("the same signal again ends the program, an ignored one never does") {
  const int twice = status_of([] {
    const Interruption interruption;
    raise(SIGINT);
    raise(SIGINT);
  });
  CHECK((WIFSIGNALED(twice) && WTERMSIG(twice) == SIGINT));
  const int ignored = status_of([] {
    signal(SIGHUP, SIG_IGN);
    const Interruption interruption;
    raise(SIGHUP);
    raise(SIGHUP);
    _exit(Interruption::signal() == 0 ? 0 : 1);
  });
  CHECK((WIFEXITED(ignored) && WEXITSTATUS(ignored) == 0));
  const int ended = status_of([] { end_by_signal(SIGINT); });
  CHECK((WIFSIGNALED(ended) && WTERMSIG(ended) == SIGINT));
}

TEST_CASE("a run that is told to stop ends its workers and returns") {
  const auto start = std::chrono::steady_clock::now();
  int asked = 0;
  Options options;
  options.stop = [&] { return ++asked > 3; };
  run_jobs({"a", "b", "c"}, {{"/bin/sh", "-c", "sleep 600"}, {}, 0}, options,
           [](const Outcome&) -> bool { throw std::logic_error("no job can have ended"); });
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));
  CHECK(waitpid(-1, nullptr, WNOHANG) < 0);
}

TEST_CASE("a process whose parent ended before it could be told leaves at once") {
  const int orphan = status_of([] { die_with_parent(getpid()); });  // nobody is one's own parent
  CHECK((WIFEXITED(orphan) && WEXITSTATUS(orphan) == 1));
  const pid_t parent = getpid();
  const int child = status_of([parent] { die_with_parent(parent); });
  CHECK((WIFEXITED(child) && WEXITSTATUS(child) == 0));
}

// Run by the test below (hidden: they are no tests of their own).
TEST_CASE("hung worker", "[.hung_worker]") {
  apply_worker_limits();
  std::ofstream(std::getenv(kPidFile)) << getpid() << std::endl;
  for (;;) pause();
}
TEST_CASE("parent of a hung worker", "[.parent_of_hung_worker]") {
  // Catch2's own handlers would write a report, with calls that no handler may make.
  for (const int number : {SIGINT, SIGTERM}) signal(number, SIG_DFL);
  run_jobs({"a"}, {{self(), "[.hung_worker]", "-o", "/dev/null"}, {}, 0}, {1, 600},
           [](const Outcome&) { return true; });
}

TEST_CASE("a hung worker dies with the process that started it, however that ends") {
  for (const int signal : {SIGKILL, SIGINT, SIGTERM}) {
    char file[] = "/tmp/meshparity-test-XXXXXX";
    close(mkstemp(file));
    const pid_t parent = fork();
    if (parent == 0) {
      setenv(kPidFile, file, 1);
      execl(self().c_str(), "parent", "[.parent_of_hung_worker]", "-o", "/dev/null", nullptr);
      _exit(127);
    }
    pid_t worker = 0;
    const bool started = within(60, [&] { return static_cast<bool>(std::ifstream(file) >> worker); });
    CHECK(started);
    CHECK(worker > 0);
    if (started) CHECK_FALSE(is_gone(worker));
    kill(parent, signal);
    int status = 0;
    waitpid(parent, &status, 0);
    CHECK(WIFSIGNALED(status));
    if (worker > 0) CHECK(within(10, [&] { return is_gone(worker); }));
    unlink(file);
  }
}

}  // namespace meshparity::run

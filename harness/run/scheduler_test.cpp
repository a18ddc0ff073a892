// The scheduler must lose a job, never the run: workers here answer, die, hang, exit early and write rubbish.
// A new way for a worker to misbehave is a new branch of kShellWorker and a test that names its ending.
#include "harness/run/scheduler.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <new>
#include <thread>

#include "harness/types/error.h"

namespace meshparity::run {
namespace {

// Answers "<line> by <pid>", or does what the line says.
constexpr char kShellWorker[] = R"sh(
while IFS= read -r line; do
  case "$line" in
    segv) kill -SEGV $$ ;;
    abort*) echo "terminate called: ${line#abort }" >&2; kill -ABRT $$ ;;
    exit*) exit ${line#exit } ;;
    hang) sleep 600 ;;
    grandchild) sleep 600 & kill -KILL $$ ;;
    partial) printf 'half an ans'; exit 4 ;;
    two) printf 'one\ntwo\n' ;;
    mute) exec >&-; sleep 600 ;;
    garbage) printf '\001\377 }{\n' ;;
    retire) echo "$line"; exit 0 ;;
    die-after) echo "$line"; exit 5 ;;
    noise) i=0; while [ $i -lt 400 ]; do echo "noise $i ......................................" >&2; i=$((i+1)); done; echo "$line" ;;
    env) echo "$FROM_TEST $MESHPARITY_RLIMIT_DATA" ;;
    length*) echo "${#line}" ;;
    pid) echo $$ ;;
    *) echo "$line" ;;
  esac
done
)sh";

WorkerCommand shell_worker() {
  return {{"/bin/sh", "-c", kShellWorker}, {}, 0};
}

std::vector<Outcome> run_all(const std::vector<std::string>& lines, const Options& options,
                             const WorkerCommand& command = shell_worker()) {
  std::vector<Outcome> by_job(lines.size());
  std::vector<int> times(lines.size(), 0);
  run_jobs(lines, command, options, [&](const Outcome& outcome) {
    ++times.at(outcome.job);
    by_job.at(outcome.job) = outcome;
    return true;
  });
  for (std::size_t i = 0; i < lines.size(); ++i) {
    INFO("job " << i << " '" << lines[i].substr(0, 40) << "'");
    CHECK(times[i] == 1);
  }
  return by_job;
}

Options with_jobs(int jobs, double timeout_seconds = 20, std::size_t jobs_per_worker = 200) {
  return {jobs, timeout_seconds, jobs_per_worker};
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  DIR* dir = opendir("/proc/self/fd");
  while (readdir(dir)) ++count;
  closedir(dir);
  return count;
}

bool has_children() {
  return waitpid(-1, nullptr, WNOHANG) >= 0 || errno != ECHILD;
}

std::string own_path() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  return std::string(path, static_cast<std::size_t>(std::max<ssize_t>(length, 0)));
}

TEST_CASE("every line is answered once, by every number of workers") {
  std::vector<std::string> lines;
  for (int i = 0; i < 37; ++i) lines.push_back("line " + std::to_string(i));
  for (int jobs : {1, 2, 5, 64, 0}) {
    const auto outcomes = run_all(lines, with_jobs(jobs));
    for (std::size_t i = 0; i < lines.size(); ++i) {
      CHECK(outcomes[i].ending == Ending::answered);
      CHECK(outcomes[i].answer == lines[i]);
      CHECK(outcomes[i].what.empty());
    }
  }
}

TEST_CASE("no lines start no worker") {
  run_jobs({}, {{"/nonexistent/worker"}, {}, 0}, with_jobs(2), [](const Outcome&) { return true; });
  CHECK_FALSE(has_children());
}

TEST_CASE("a worker that dies costs its job and names the signal") {
  const auto outcomes =
      run_all({"a", "segv", "b", "abort mismatched shapes", "exit 3", "c", "exit 0", "d"}, with_jobs(2));
  for (std::size_t i : {0u, 2u, 5u, 7u}) CHECK(outcomes[i].ending == Ending::answered);
  for (std::size_t i : {1u, 3u, 4u, 6u}) CHECK(outcomes[i].ending == Ending::died);
  CHECK(outcomes[1].what == "killed by SIGSEGV");
  CHECK(outcomes[3].what == "killed by SIGABRT");
  CHECK(outcomes[3].stderr_tail == "terminate called: mismatched shapes\n");
  CHECK(outcomes[4].what == "exited with 3");
  CHECK(outcomes[6].what == "exited with 0");
  CHECK(outcomes[7].stderr_tail.empty());
}

TEST_CASE("a worker that hangs is killed at its time limit and the others go on") {
  const auto start = std::chrono::steady_clock::now();
  const auto outcomes = run_all({"hang", "a", "b", "hang", "c"}, with_jobs(2, 0.3));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (std::size_t i : {0u, 3u}) {
    CHECK(outcomes[i].ending == Ending::timed_out);
    CHECK(outcomes[i].what == "no answer within 0.3 s");
    CHECK(outcomes[i].seconds >= 0.3);
  }
  for (std::size_t i : {1u, 2u, 4u}) CHECK(outcomes[i].ending == Ending::answered);
  CHECK(seconds < 10);
}

TEST_CASE("a child that outlives its worker does not hide the worker's death") {
  const auto outcomes = run_all({"grandchild", "a"}, with_jobs(1));
  CHECK(outcomes[0].ending == Ending::died);
  CHECK(outcomes[0].what == "killed by SIGKILL");
  CHECK(outcomes[0].seconds < 5);
  CHECK(outcomes[1].ending == Ending::answered);
}

TEST_CASE("what is not exactly one whole line is not an answer") {
  const auto outcomes = run_all({"partial", "two", "mute", "garbage", "fine"}, with_jobs(1));
  CHECK(outcomes[0].ending == Ending::died);
  CHECK(outcomes[0].what == "exited with 4 within its answer");
  CHECK(outcomes[1].ending == Ending::died);
  CHECK(outcomes[1].what == "wrote more than one line for one job");
  CHECK(outcomes[2].ending == Ending::died);
  CHECK(outcomes[2].what == "closed its standard output");
  // Bytes are passed on as they are: judging them is the caller's task.
  CHECK(outcomes[3].ending == Ending::answered);
  CHECK(outcomes[3].answer == "\001\377 }{");
  CHECK(outcomes[4].answer == "fine");
}

TEST_CASE("a worker may retire between jobs, but not crash there unseen") {
  const auto retired = run_all({"retire", "a", "retire", "retire", "b"}, with_jobs(1));
  for (const Outcome& outcome : retired) CHECK(outcome.ending == Ending::answered);
  const auto crashed = run_all({"die-after", "a", "b"}, with_jobs(1));
  CHECK(crashed[0].ending == Ending::answered);
  CHECK(crashed[1].ending == Ending::died);
  CHECK(crashed[1].what == "exited with 5 before it read the job");
  CHECK(crashed[2].ending == Ending::answered);
}

TEST_CASE("a worker that cannot live ends every job instead of looping") {
  const auto outcomes =
      run_all({"a", "b", "c"}, with_jobs(2), {{"/bin/sh", "-c", "echo no library >&2; exit 127"}, {}, 0});
  for (const Outcome& outcome : outcomes) {
    CHECK(outcome.ending == Ending::died);
    CHECK_THAT(outcome.what, Catch::StartsWith("exited with 127"));
    CHECK(outcome.stderr_tail == "no library\n");
  }
}

TEST_CASE("a worker that cannot be started is an error that names it") {
  CHECK_THROWS_WITH(run_all({"a"}, with_jobs(2), {{"/nonexistent/worker"}, {}, 0}),
                    Catch::Contains("/nonexistent/worker") && Catch::Contains("No such file"));
  CHECK_THROWS_AS(run_all({"a\nb"}, with_jobs(1)), InputError);
}

TEST_CASE("the tail of stderr is the last 4 KiB of this job alone") {
  const auto outcomes = run_all({"noise", "a"}, with_jobs(1));
  CHECK(outcomes[0].ending == Ending::answered);
  CHECK(outcomes[0].stderr_tail.size() == 4096);
  CHECK_THAT(outcomes[0].stderr_tail, Catch::Contains("noise 399 "));
  CHECK(outcomes[1].stderr_tail.empty());
}

TEST_CASE("a worker is replaced after its number of jobs") {
  const std::vector<std::string> lines(10, "pid");
  std::map<std::string, int> served;
  for (const Outcome& outcome : run_all(lines, with_jobs(1, 20, 3))) ++served[outcome.answer];
  CHECK(served.size() == 4);
  for (const auto& [pid, count] : served) CHECK(count <= 3);
}

TEST_CASE("the environment is ours with the command's additions") {
  setenv("FROM_TEST", "inherited", 1);
  WorkerCommand command = shell_worker();
  CHECK(run_all({"env"}, with_jobs(1), command)[0].answer == "inherited 0");
  command.environment = {"FROM_TEST=added"};
  command.memory_bytes = 123;
  CHECK(run_all({"env"}, with_jobs(1), command)[0].answer == "added 123");
  unsetenv("FROM_TEST");
}

TEST_CASE("lines longer than a pipe go through, and so do answers") {
  const std::string line(300000, 'x');
  const auto outcomes = run_all({line, "length" + line, line}, with_jobs(2));
  CHECK(outcomes[0].answer == line);
  CHECK(outcomes[1].answer == std::to_string(line.size() + 6));
  CHECK(outcomes[2].answer == line);
}

TEST_CASE("a worker that dies while it is written to raises no SIGPIPE") {
  const std::string line(300000, 'x');
  const auto outcomes =
      run_all({line, line}, with_jobs(1), {{"/bin/sh", "-c", "head -c 9 >/dev/null; exit 6"}, {}, 0});
  for (const Outcome& outcome : outcomes) {
    CHECK(outcome.ending == Ending::died);
    CHECK(outcome.what == "exited with 6");
  }
  sigset_t pending;
  sigpending(&pending);
  CHECK(sigismember(&pending, SIGPIPE) == 0);
}

TEST_CASE("stopping early kills what runs and reports nothing more") {
  const auto start = std::chrono::steady_clock::now();
  int calls = 0;
  run_jobs({"hang", "a", "b", "c"}, shell_worker(), with_jobs(2, 60),
           [&](const Outcome&) { return ++calls < 2; });
  CHECK(calls == 2);
  CHECK(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < 10);
  CHECK_FALSE(has_children());
  CHECK_THROWS_AS(run_jobs({"a", "hang"}, shell_worker(), with_jobs(2, 60),
                           [](const Outcome&) -> bool { throw RunError("report failed"); }),
                  RunError);
  CHECK_FALSE(has_children());
}

TEST_CASE("no process and no descriptor is left behind") {
  const std::size_t before = open_descriptors();
  run_all({"a", "segv", "hang", "two", "grandchild", "retire", "b", "mute", "partial"}, with_jobs(3, 0.3, 2));
  CHECK(open_descriptors() == before);
  CHECK_FALSE(has_children());
}

TEST_CASE("two runs side by side do not hold each other's pipes") {
  // An inherited write end would keep a worker waiting for the end of its stdin until the other run is over.
  std::vector<std::thread> threads;
  std::vector<int> answered(4, 0);
  for (std::size_t t = 0; t < answered.size(); ++t)
    threads.emplace_back([&answered, t] {
      run_jobs(std::vector<std::string>(20, "a"), shell_worker(), with_jobs(2, 20, 3),
               [&](const Outcome& outcome) {
                 answered[t] += outcome.ending == Ending::answered;
                 return true;
               });
    });
  for (std::thread& thread : threads) thread.join();
  for (int count : answered) CHECK(count == 20);
}

// Run as a worker by the test below (hidden: it is no test of its own; Catch2's own output goes to -o).
TEST_CASE("memory worker", "[.memory_worker]") {
  apply_worker_limits();
  std::string line;
  while (std::getline(std::cin, line)) {
    const std::size_t bytes = std::stoull(line);
    try {
      std::unique_ptr<char[]> block(new char[bytes]);
      for (std::size_t i = 0; i < bytes; i += 4096) block[i] = 1;
      std::cout << "had " << static_cast<int>(block[bytes / 4096 * 4096 - 4096]) << std::endl;
    } catch (const std::bad_alloc&) {
      std::cout << "refused" << std::endl;
    }
  }
  _exit(0);
}

TEST_CASE("a worker that asks for more than its memory is refused it") {
  const std::string small = std::to_string(8 << 20), large = std::to_string(512 << 20);
  WorkerCommand command{{own_path(), "[.memory_worker]", "-o", "/dev/null"}, {}, std::size_t{128} << 20};
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  command.memory_bytes = 0;
#endif
  const auto limited = run_all({small, large, small}, with_jobs(1, 120), command);
  CHECK(limited[0].answer == "had 1");
  CHECK(limited[1].answer == (command.memory_bytes ? "refused" : "had 1"));
  CHECK(limited[2].answer == "had 1");
  command.memory_bytes = 0;
  CHECK(run_all({large}, with_jobs(1, 120), command)[0].answer == "had 1");
}

TEST_CASE("a memory limit that is no number is refused") {
  setenv(kMemoryVariable, "12 GB", 1);
  CHECK_THROWS_AS(apply_worker_limits(), InputError);
  unsetenv(kMemoryVariable);
  apply_worker_limits();
  rlimit core = {};
  getrlimit(RLIMIT_CORE, &core);
  CHECK(core.rlim_cur != 1);  // absent: this process is no worker and keeps its limits
}

}  // namespace
}  // namespace meshparity::run

// What an interrupted or killed command leaves behind: no process, no folder, no half-written report.
#include <signal.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstring>
#include <functional>

#include "harness/cli/command_fixture.h"
#include "reports/report.h"

namespace meshparity::cli {
namespace {

namespace fs = std::filesystem;

bool within(double seconds, const std::function<bool()>& condition) {
  const auto start = std::chrono::steady_clock::now();
  while (!condition()) {
    if (std::chrono::steady_clock::now() - start > std::chrono::duration<double>(seconds)) return false;
    ::usleep(5000);
  }
  return true;
}

// A command under way, whose temporary folder is its own: its processes are known by that name.
class Started {
 public:
  explicit Started(std::vector<std::string> arguments) {
    fs::create_directory(temporary());
    arguments.insert(arguments.begin(), MESHPARITY_EXECUTABLE);
    std::vector<std::string> variables = {"TMPDIR=" + temporary()};
    for (char** entry = environ; *entry; ++entry)
      if (std::string(*entry).rfind("TMPDIR=", 0) != 0) variables.emplace_back(*entry);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 1, folder.file("out").c_str(), O_CREAT | O_WRONLY, 0600);
    ::posix_spawn_file_actions_addopen(&actions, 2, folder.file("err").c_str(), O_CREAT | O_WRONLY, 0600);
    const int error = ::posix_spawn(&pid, MESHPARITY_EXECUTABLE, &actions, nullptr,
                                    pointers(arguments).data(), pointers(variables).data());
    ::posix_spawn_file_actions_destroy(&actions);
    if (error) throw std::runtime_error("cannot start the command");
  }
  ~Started() {
    if (!ended_) end(SIGKILL);
  }

  std::string temporary() const { return folder.file("tmp"); }
  // Sends the signal and returns how the command ended: an exit code, or 128 + the signal that ended it.
  int end(int signal) {
    ::kill(pid, signal);
    int status = 0;
    ::waitpid(pid, &status, 0);
    ended_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  // Processes of this command that run now and have `word` among their arguments.
  std::vector<pid_t> processes(const std::string& word = "") const {
    std::vector<pid_t> found;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
      const std::string name = entry.path().filename();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      // Entries end in zeros; a zombie has neither.
      const std::string variables = '\0' + slurp(entry.path() / "environ");
      const std::string arguments = '\0' + slurp(entry.path() / "cmdline");
      if (variables.find('\0' + ("TMPDIR=" + temporary()) + '\0') == std::string::npos) continue;
      if (word.empty() || arguments.find('\0' + word + '\0') != std::string::npos)
        found.push_back(std::stoi(name));
    }
    return found;
  }

  const ScratchFolder folder;
  pid_t pid = 0;

 private:
  static std::vector<char*> pointers(std::vector<std::string>& words) {
    std::vector<char*> raw;
    for (auto& word : words) raw.push_back(word.data());
    raw.push_back(nullptr);
    return raw;
  }
  bool ended_ = false;
};

const std::vector<std::string> kLongGate = {
    "gate",   "--model", "tiny-dense,tiny-moe", "--batch", "rows", "--mesh", "world<=8", "--sp", "all",
    "--jobs", "2"};
// A process that was still loading LibTorch when its parent died leaves at its first own instruction: seconds
// on a machine with other work.
constexpr double kStartSeconds = 120, kEndSeconds = 60;

}  // namespace

TEST_CASE("a gate that is killed takes its workers with it, and the next one its folder") {
  const ScratchFolder reports;
  auto arguments = kLongGate;
  arguments.insert(arguments.end(), {"--json", reports.file("r.json"), "--junit", reports.file("r.xml")});
  Started gate(arguments);
  REQUIRE(within(kStartSeconds, [&] {
    return gate.processes("worker").size() == 2 &&
           slurp(gate.folder.file("out")).find("PASS") != std::string::npos;
  }));
  CHECK(gate.end(SIGKILL) == 128 + SIGKILL);
  CHECK(within(kEndSeconds, [&] { return gate.processes().empty(); }));
  CHECK_FALSE(fs::exists(reports.file("r.json")));
  CHECK_FALSE(fs::exists(reports.file("r.xml")));
  // Nobody was left to remove it.
  CHECK_FALSE(fs::is_empty(gate.temporary()));
  ::setenv("TMPDIR", gate.temporary().c_str(), 1);
  const Finished next =
      execute({MESHPARITY_EXECUTABLE, "gate", "--model", "tiny-dense", "--batch", "single", "--mesh", "dp1"});
  ::unsetenv("TMPDIR");
  CHECK(next.code == 0);
  CHECK(fs::is_empty(gate.temporary()));
}

TEST_CASE("an interrupted gate ends its workers, says how far it came and writes no report") {
  for (const int signal : {SIGINT, SIGTERM}) {
    const ScratchFolder reports;
    const std::string earlier = reports.write("r.json", "earlier");
    auto arguments = kLongGate;
    arguments.insert(arguments.end(), {"--json", earlier, "--junit", reports.file("r.xml"), "--markdown",
                                       reports.file("r.md"), "--history", reports.file("history")});
    Started gate(arguments);
    REQUIRE(within(kStartSeconds,
                   [&] { return slurp(gate.folder.file("out")).find("PASS") != std::string::npos; }));
    CHECK(gate.end(signal) == 128 + signal);
    CHECK(gate.processes().empty());
    CHECK(fs::is_empty(gate.temporary()));
    const std::string said = slurp(gate.folder.file("err"));
    INFO(said);
    CHECK(said.find(std::string("meshparity: interrupted by SIG") + ::sigabbrev_np(signal) + " after ") == 0);
    CHECK(std::count(said.begin(), said.end(), '\n') == 1);
    CHECK(slurp(earlier) == "earlier");
    for (const char* name : {"r.xml", "r.md", "history"}) CHECK_FALSE(fs::exists(reports.file(name)));
  }
}

TEST_CASE("rank processes die with the gate or the run that owns them") {
  for (const char* verb : {"gate", "run"})
    for (const int signal : {SIGKILL, SIGINT}) {
      Started command({verb, "--model", "tiny-moe", "--batch", "rows", "--mesh", "fsdp2.tp2", "--engine",
                       "gloo", "--spawn", "4"});
      INFO(verb << " ended by signal " << signal);
      REQUIRE(within(kStartSeconds, [&] { return command.processes("rank").size() == 4; }));
      CHECK(command.end(signal) == 128 + signal);
      CHECK(within(kEndSeconds, [&] { return command.processes().empty(); }));
      if (signal == SIGINT) CHECK(fs::is_empty(command.temporary()));
    }
}

TEST_CASE("a case whose worker is killed is ERROR, one that hangs TIMEOUT, and the others go on") {
  for (const int signal : {SIGABRT, SIGSTOP}) {
    const ScratchFolder reports;
    const std::string json = reports.file("r.json");
    // One rank each: threads that wait for one another may take longer than the limit on a loaded machine.
    Started gate({"gate", "--model", "tiny-dense", "--batch", "single,packed-odd,rows", "--mesh", "dp1",
                  "--jobs", "1", "--timeout", "30", "--json", json});
    const auto worker = [&] { return gate.processes("worker"); };
    REQUIRE(within(kStartSeconds, [&] { return !worker().empty(); }));
    ::kill(worker().front(), signal);
    CHECK(gate.end(0) == 3);
    int passed = 0, error = 0, timeout = 0;
    std::string reason;
    for (const auto& result : reports::from_json(slurp(json), json).cases) {
      passed += result.state == State::pass, error += result.state == State::error;
      timeout += result.state == State::timeout;
      if (result.state != State::pass) reason = result.reason;
    }
    INFO(reason);
    CHECK(passed == 2);
    CHECK(error == (signal == SIGABRT));
    CHECK(timeout == (signal == SIGSTOP));
    CHECK(reason.find(signal == SIGABRT ? "killed by SIGABRT" : "no answer within 30 s") == 0);
    CHECK(gate.processes().empty());
  }
}

// Not with a sanitizer: its allocator would be granted the memory and fill the machine.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_CASE("a case that needs more memory than a worker may have is ERROR and the others go on") {
  const ScratchFolder folder;
  std::string config = slurp(std::string(MESHPARITY_SOURCE_DIR) + "/scenarios/models/tiny-dense.json");
  const std::string field = "\"vocab_size\":";
  const auto at = config.find(field);
  REQUIRE(at != std::string::npos);
  const auto number = config.find_first_of("0123456789", at);
  config.replace(number, config.find_first_not_of("0123456789", number) - number, "1000000000");
  const std::string json = folder.file("r.json"), large = folder.write("large.json", config);
  const std::string cases =
      folder.write("three.cases", "--model tiny-dense --batch single --mesh tp2\n--model " + large +
                                      " --batch single --mesh tp2\n"
                                      "--model tiny-dense --batch single --mesh fsdp2\n");
  const Finished run =
      execute({MESHPARITY_EXECUTABLE, "gate", "--cases", cases, "--jobs", "1", "--json", json});
  INFO(run.out << run.err);
  CHECK(run.code == 3);
  const auto results = reports::from_json(slurp(json), json).cases;
  REQUIRE(results.size() == 3);
  CHECK(results[0].state == State::pass);
  CHECK(results[1].state == State::error);
  CHECK(results[2].state == State::pass);
}
#endif

}  // namespace meshparity::cli

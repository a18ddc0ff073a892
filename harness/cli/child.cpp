#include "harness/cli/child.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

#include "harness/cli/sweep.h"
#include "harness/run/interruption.h"
#include "harness/types/error.h"

extern char** environ;

namespace meshparity::cli {

int run_child(std::vector<std::string> argv, const std::string& folder) {
  std::vector<char*> raw;
  for (auto& word : argv) raw.push_back(word.data());
  raw.push_back(nullptr);
  std::cout << std::flush;
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  if (!folder.empty()) ::posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  pid_t pid = 0;
  const int error = ::posix_spawnp(&pid, raw[0], &actions, nullptr, raw.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error) throw RunError(argv[0] + " cannot be started: " + std::strerror(error));
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status)) throw RunError(argv[0] + " died of signal " + std::to_string(WTERMSIG(status)));
  return WEXITSTATUS(status);
}

Processes::~Processes() {
  for (auto pid : pids_)
    if (pid > 0) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
}

void Processes::start(const std::vector<std::string>& argv, const std::string& stderr_file) {
  std::vector<char*> raw;
  for (const auto& word : argv) raw.push_back(const_cast<char*>(word.c_str()));
  raw.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, stderr_file.c_str(),
                                     O_CREAT | O_WRONLY | O_TRUNC, 0600);
  pid_t pid = 0;
  const int error = ::posix_spawn(&pid, raw[0], &actions, nullptr, raw.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error) throw RunError("cannot start " + argv[0] + ": " + std::strerror(error));
  pids_.push_back(pid);
}

int Processes::wait(double timeout_seconds, const std::string& what) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(timeout_seconds);
  std::size_t running = pids_.size();
  while (running) {
    for (std::size_t i = 0; i < pids_.size(); ++i) {
      int status = 0;
      if (pids_[i] <= 0 || ::waitpid(pids_[i], &status, WNOHANG) != pids_[i]) continue;
      pids_[i] = 0;
      --running;
      if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return static_cast<int>(i);
    }
    if (timeout_seconds > 0 && Clock::now() > end) return -2;
    run::Interruption::check(std::to_string(pids_.size() - running) + " of " + std::to_string(pids_.size()) +
                             " " + what);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return -1;
}

TemporaryFolder::TemporaryFolder(const std::string& name) {
  const char* shared = std::getenv(kSharedFolderVariable);
  const auto base = shared ? std::filesystem::path(shared) : std::filesystem::temp_directory_path();
  path_ = (base / (name + "-XXXXXX")).string();
  if (!::mkdtemp(path_.data())) throw RunError("cannot make a temporary folder in " + base.string());
}

void TemporaryFolder::remove() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string upstream_python(const std::string& verb) {
  if (const char* python = std::getenv("MESHPARITY_UPSTREAM_PYTHON")) return python;
  throw InputError(verb + " needs Hugging Face transformers: start it as ./meshparity " + verb +
                   ", which sets that up, or point MESHPARITY_UPSTREAM_PYTHON at a Python that has "
                   "golden/upstream/requirements.txt");
}

std::string tail_of(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  const std::string all = text.str();
  return all.size() > 2000 ? all.substr(all.size() - 2000) : all;
}

std::int64_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmHWM:", 0) == 0) return 1024 * std::atoll(line.c_str() + 6);
  return 0;
}

}  // namespace meshparity::cli

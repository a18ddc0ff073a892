// Process and pipe mechanics of a worker. Every descriptor is O_CLOEXEC, so a worker never inherits another
// one's pipes (a leaked write end would hide the other's end of file).
#include "harness/run/worker_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "harness/run/scheduler.h"
#include "harness/types/error.h"

extern char** environ;

namespace meshparity::run {
namespace {

std::string why(int error) {
  return std::strerror(error);
}

// Our environment with the command's additions in place of variables of the same name.
std::vector<std::string> merged_environment(const WorkerCommand& command) {
  std::vector<std::string> added = command.environment;
  // Always set, so that a worker started by a limited process does not inherit that process's limit by name.
  added.push_back(std::string(kMemoryVariable) + "=" + std::to_string(command.memory_bytes));
  added.push_back(std::string(kParentVariable) + "=" + std::to_string(getpid()));
  auto name_of = [](const std::string& entry) { return entry.substr(0, entry.find('=')); };
  std::vector<std::string> merged;
  for (char** entry = environ; *entry; ++entry) {
    const std::string name = name_of(*entry);
    if (std::none_of(added.begin(), added.end(), [&](const std::string& a) { return name_of(a) == name; }))
      merged.emplace_back(*entry);
  }
  merged.insert(merged.end(), added.begin(), added.end());
  return merged;
}

std::vector<char*> pointers(std::vector<std::string>* texts) {
  std::vector<char*> result;
  for (std::string& text : *texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

}  // namespace

void WorkerProcess::Descriptor::close() {
  if (fd >= 0) ::close(fd);
  fd = -1;
}

void WorkerProcess::open_pipe(Descriptor* read_end, Descriptor* write_end) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw RunError("cannot make a pipe for a worker: " + why(errno));
  read_end->fd = ends[0];
  write_end->fd = ends[1];
  // Above 2, so that the dup2 calls of the child cannot overwrite one end with another where we run without
  // stdin.
  for (Descriptor* end : {read_end, write_end}) {
    if (end->fd > 2) continue;
    const int moved = fcntl(end->fd, F_DUPFD_CLOEXEC, 3);
    if (moved < 0) throw RunError("cannot move a pipe for a worker: " + why(errno));
    end->close();
    end->fd = moved;
  }
}

WorkerProcess::WorkerProcess(const WorkerCommand& command) {
  if (command.argv.empty()) throw RunError("cannot start a worker: no executable named");
  Descriptor child_stdin, child_stdout, child_stderr;
  open_pipe(&child_stdin, &stdin_);
  open_pipe(&stdout_, &child_stdout);
  open_pipe(&stderr_, &child_stderr);
  for (int fd : {stdin_.fd, stdout_.fd, stderr_.fd}) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, child_stdin.fd, 0);
  posix_spawn_file_actions_adddup2(&actions, child_stdout.fd, 1);
  posix_spawn_file_actions_adddup2(&actions, child_stderr.fd, 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  // A group of its own: what a worker started (rank processes of --spawn) is killed with it.
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);

  std::vector<std::string> arguments = command.argv;
  std::vector<std::string> environment = merged_environment(command);
  const int error = posix_spawn(&pid_, arguments[0].c_str(), &actions, &attributes,
                                pointers(&arguments).data(), pointers(&environment).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw RunError("cannot start the worker " + arguments[0] + ": " + why(error));
}

WorkerProcess::~WorkerProcess() {
  if (!reaped_) end_within(0);
}

void WorkerProcess::send(const std::string& text) {
  unsent_ += text;
}

void WorkerProcess::flush() {
  if (unsent_.empty() || stdin_.fd < 0) return;
  // A worker that died turns this write into SIGPIPE. It is blocked here and taken back, for this thread and
  // this write only: the disposition belongs to the program, which may want SIGPIPE for its own output.
  sigset_t pipe_signal, before, pending;
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  sigpending(&pending);
  const bool was_pending = sigismember(&pending, SIGPIPE) == 1;
  pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
  ssize_t written;
  do written = write(stdin_.fd, unsent_.data(), unsent_.size());
  while (written < 0 && errno == EINTR);
  const int error = errno;
  if (written < 0 && error == EPIPE && !was_pending) {
    const timespec now = {0, 0};
    while (sigtimedwait(&pipe_signal, nullptr, &now) < 0 && errno == EINTR) {
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (written >= 0) {
    unsent_.erase(0, static_cast<std::size_t>(written));
  } else if (error != EAGAIN) {
    close_stdin();  // its death is told by the end of its output, with the reason
  }
}

std::size_t WorkerProcess::unread_bytes() const {
  int in_pipe = 0;
  if (stdin_.fd >= 0 && ioctl(stdin_.fd, FIONREAD, &in_pipe) != 0) in_pipe = 0;
  return static_cast<std::size_t>(in_pipe) + unsent_.size();
}

bool WorkerProcess::read_some(Descriptor* from, std::string* text, std::size_t limit) {
  char buffer[65536];
  while (from->fd >= 0 && limit > 0) {
    const ssize_t got = read(from->fd, buffer, std::min(limit, sizeof buffer));
    if (got > 0) {
      text->append(buffer, static_cast<std::size_t>(got));
      limit -= static_cast<std::size_t>(got);
    } else if (got < 0 && errno == EINTR) {
      continue;
    } else if (got < 0 && errno == EAGAIN) {
      return true;
    } else {
      from->close();
    }
  }
  return from->fd >= 0;
}

bool WorkerProcess::read_stdout(std::string* text, std::size_t limit) {
  return read_some(&stdout_, text, limit);
}

bool WorkerProcess::read_stderr(std::string* text, std::size_t limit) {
  return read_some(&stderr_, text, limit);
}

bool WorkerProcess::ended() {
  if (reaped_) return true;
  siginfo_t info = {};
  const int error = waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT);
  if (error == 0 && info.si_pid == 0) return false;
  if (error != 0 && errno == EINTR) return false;
  kill_and_reap();
  return true;
}

bool WorkerProcess::end_within(double seconds) {
  const auto start = std::chrono::steady_clock::now();
  const auto limit = std::chrono::duration<double>(seconds);
  while (!ended()) {
    if (std::chrono::steady_clock::now() - start >= limit) {
      kill_and_reap();
      return false;
    }
    poll(nullptr, 0, 1);
  }
  return true;
}

std::string WorkerProcess::how_it_ended() const {
  if (status_ == -1) return "ended (its status was taken by somebody else)";
  if (WIFSIGNALED(status_)) {
    const char* name = sigabbrev_np(WTERMSIG(status_));
    return "killed by " + (name ? "SIG" + std::string(name) : "signal " + std::to_string(WTERMSIG(status_)));
  }
  return "exited with " + std::to_string(WEXITSTATUS(status_));
}

bool WorkerProcess::ended_cleanly() const {
  return status_ != -1 && WIFEXITED(status_) && WEXITSTATUS(status_) == 0;
}

void WorkerProcess::kill_and_reap() {
  // The group outlives its leader where the leader left children, and they would hold the pipes open. Killed
  // before the leader is reaped: until then its number cannot belong to another group.
  kill(-pid_, SIGKILL);
  int status = 0;
  pid_t got;
  do got = waitpid(pid_, &status, 0);
  while (got < 0 && errno == EINTR);
  status_ = got == pid_ ? status : -1;
  reaped_ = true;
}

}  // namespace meshparity::run

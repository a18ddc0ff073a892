#include "golden/guard.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "golden/descriptor.h"
#include "harness/types/error.h"

namespace meshparity::golden {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// The wall clock only ends a guard that hangs without computing (its own limit on processor time ends the
// others), so it is generous: 60 s and what a slow disk needs at 10 MB/s.
Clock::time_point deadline_for(std::uint64_t file_bytes) {
  return Clock::now() + std::chrono::seconds(60 + file_bytes / 10'000'000);
}

class PipeSource : public ByteSource {
 public:
  PipeSource(int fd, Clock::time_point deadline) : fd_(fd), deadline_(deadline) {}

  void read(void* out, std::size_t bytes) override {
    auto* to = static_cast<char*>(out);
    while (bytes > 0) {
      if (begin_ == end_ && bytes >= sizeof buffer_) {  // large data goes straight to its place
        const std::size_t n = some(to, bytes);
        if (n == 0) throw FlatError("the stream ends early");
        to += n;
        bytes -= n;
        continue;
      }
      if (begin_ == end_ && !fill()) throw FlatError("the stream ends early");
      const std::size_t n = std::min(bytes, end_ - begin_);
      std::memcpy(to, buffer_ + begin_, n);
      begin_ += n;
      to += n;
      bytes -= n;
    }
  }
  bool at_end() override { return begin_ == end_ && !fill(); }
  bool late() const { return late_; }

 private:
  bool fill() {
    begin_ = 0;
    end_ = some(buffer_, sizeof buffer_);
    return end_ > 0;
  }

  std::size_t some(char* out, std::size_t bytes) {
    for (;;) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(deadline_ - Clock::now()).count();
      if (left <= 0) {
        late_ = true;
        throw FlatError("out of time");
      }
      pollfd waiting{fd_, POLLIN, 0};
      if (::poll(&waiting, 1, static_cast<int>(std::min<long long>(left, 3'600'000))) <= 0) continue;
      const ssize_t n = ::read(fd_, out, bytes);
      if (n >= 0) return static_cast<std::size_t>(n);
      if (errno != EINTR && errno != EAGAIN) throw FlatError("cannot read the stream");
    }
  }

  int fd_;
  Clock::time_point deadline_;
  bool late_ = false;
  std::size_t begin_ = 0, end_ = 0;
  char buffer_[1 << 16];
};

// Owns a spawned process: it is ended and collected whatever happens.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  ~Child() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      wait();
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  int wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return status;
  }

 private:
  pid_t pid_;
};

pid_t spawn(const std::string& program, const std::string& file, int output) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  // libhdf5 may print and glibc may report a broken heap: the one line the user gets is ours.
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output, 1);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addclosefrom_np(&actions, 3);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::string program_copy = program, file_copy = file;
  char* arguments[] = {program_copy.data(), file_copy.data(), nullptr};
  // Only what the guard needs, so that a user's HDF5 settings change nothing; where libhdf5's own libraries
  // lie in a local prefix, the loader finds them as it did for this program.
  char locking[] = "HDF5_USE_FILE_LOCKING=FALSE";
  const char* const library_path = std::getenv("LD_LIBRARY_PATH");
  std::string libraries = std::string("LD_LIBRARY_PATH=") + (library_path ? library_path : "");
  char* environment[] = {locking, library_path ? libraries.data() : nullptr, nullptr};
  pid_t pid = -1;
  const int failed = posix_spawn(&pid, program.c_str(), &actions, &attributes, arguments, environment);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (failed) throw RunError(program + ": cannot be started: " + std::strerror(failed));
  return pid;
}

// What the loader and the shell end with where a program cannot be run.
constexpr int kNotRun = 127;

std::string why_it_ended(int status, bool late) {
  if (late) return "reading it takes too long";
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    if (signal == SIGXCPU || signal == SIGALRM) return "reading it takes too long";
    return "the HDF5 reader died of signal " + std::to_string(signal);
  }
  if (WEXITSTATUS(status) == kNotRun)
    throw RunError(guard_program() + " cannot be started: a library it needs is missing (try it by hand)");
  if (WEXITSTATUS(status) != 0)
    return "the HDF5 reader failed with exit code " + std::to_string(WEXITSTATUS(status));
  return "the HDF5 reader was cut short";
}

}  // namespace

std::string guard_program() {
  if (const char* named = std::getenv("MESHPARITY_H5GUARD"); named && *named) return named;
  std::error_code ignored;
  const fs::path here = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  for (const char* folder : {".", "golden", "../golden", "../../golden"}) {
    const fs::path program = (here / folder / "meshparity-h5guard").lexically_normal();
    if (fs::exists(program, ignored)) return program.string();
  }
  throw RunError("meshparity-h5guard, which reads HDF5 files, is not beside " + here.string() +
                 ": build the target meshparity-h5guard or set MESHPARITY_H5GUARD");
}

RawContent read_guarded(const std::string& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) throw InputError(file + ": cannot be read: " + std::strerror(errno));
  if (!S_ISREG(info.st_mode)) throw InputError(file + ": is not a file");
  if (::access(file.c_str(), R_OK) != 0) throw InputError(file + ": cannot be read: " + std::strerror(errno));
  const auto file_bytes = static_cast<std::uint64_t>(info.st_size);

  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw RunError(std::string("no pipe: ") + std::strerror(errno));
  Descriptor from(ends[0]), to(ends[1]);
  ::fcntl(ends[0], F_SETPIPE_SZ, 1 << 20);  // fewer switches between the two processes; the default works too
  Child child(spawn(guard_program(), file, to.get()));
  to.close();

  PipeSource source(from.get(), deadline_for(file_bytes));
  std::string cause;
  try {
    RawContent content = read_flat(source, Limits::content_bytes(file_bytes));
    if (child.wait() == 0) {
      content.store.file = file;
      return content;
    }
    cause = "the HDF5 reader did not end well";
  } catch (const FlatError& error) {
    from.close();  // a guard that is still writing ends by SIGPIPE
    if (!source.late() && std::string_view(error.what()) == "the stream ends early")
      cause = why_it_ended(child.wait(), false);
    else
      cause = source.late() ? why_it_ended(0, true) : error.what();
  }
  throw InputError(file + ": damaged (" + cause + ")");
}

}  // namespace meshparity::golden

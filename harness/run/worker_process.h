// One worker process behind three pipes: started by posix_spawn, killed with its whole process group, always
// reaped. The scheduler owns the protocol (one line in, one line out); this class owns the process and its
// descriptors.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <vector>

namespace meshparity::run {

struct WorkerCommand;

class WorkerProcess {
 public:
  // Throws RunError naming the executable if it cannot be started (posix_spawn reports a failed exec here).
  explicit WorkerProcess(const WorkerCommand& command);
  // Kills and reaps what still runs: no path out of the scheduler leaves a process or a zombie.
  ~WorkerProcess();
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  // Descriptors to poll; -1 once closed.
  int stdin_fd() const { return stdin_.fd; }
  int stdout_fd() const { return stdout_.fd; }
  int stderr_fd() const { return stderr_.fd; }

  // Queues text for the worker's stdin; flush() writes what the pipe takes now and never raises SIGPIPE.
  void send(const std::string& text);
  void flush();
  bool has_unsent() const { return !unsent_.empty(); }
  // Bytes sent that the worker has not read: a line that is whole in here was never begun.
  std::size_t unread_bytes() const;
  void close_stdin() { stdin_.close(); }

  // Appends what can be read now, at most `limit` bytes; returns false at end of file.
  bool read_stdout(std::string* text, std::size_t limit);
  bool read_stderr(std::string* text, std::size_t limit);

  // True once the process has ended (it is then reaped). Does not wait.
  bool ended();
  // Waits at most so long for the end, then kills the group; always reaps. Returns true if it ended by
  // itself.
  bool end_within(double seconds);
  // After the end: "killed by SIGSEGV", "exited with 3". `clean` = exited with 0.
  std::string how_it_ended() const;
  bool ended_cleanly() const;

 private:
  struct Descriptor {
    int fd = -1;
    Descriptor() = default;
    ~Descriptor() { close(); }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    void close();
  };
  static void open_pipe(Descriptor* read_end, Descriptor* write_end);
  static bool read_some(Descriptor* from, std::string* text, std::size_t limit);
  void kill_and_reap();

  pid_t pid_ = -1;
  bool reaped_ = false;
  int status_ = -1;  // of waitpid; -1 = unknown (somebody else reaped it)
  Descriptor stdin_, stdout_, stderr_;
  std::string unsent_;
};

}  // namespace meshparity::run

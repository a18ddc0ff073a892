// Runs another program and waits for it.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

namespace meshparity::cli {

// Starts `argv` (found on PATH where argv[0] has no slash) with this process's environment and output, in
// `folder` where it is not empty, and waits. Returns its exit code. Throws RunError where it cannot be
// started or dies of a signal.
int run_child(std::vector<std::string> argv, const std::string& folder = "");

// The processes of one case; those still running are ended with it.
class Processes {
 public:
  ~Processes();
  // argv[0] is a path. Nothing on stdin, stdout is dropped.
  void start(const std::vector<std::string>& argv, const std::string& stderr_file);
  // Waits for all; returns the first that failed, -1 if none did, -2 after the time limit (0: none). Throws
  // run::Interrupted where a run::Interruption lives and a signal came.
  int wait(double timeout_seconds, const std::string& what);

 private:
  std::vector<pid_t> pids_;
};

// A folder for temporary files; gone with its owner. Within a sweep it lies in the sweep's shared folder,
// which is removed whatever ends this process.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::string& name);
  ~TemporaryFolder() { remove(); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }
  // At once: files that are open or mapped stay readable, and nothing remains whatever ends the program.
  void remove();

 private:
  std::string path_;
};

// The Python that has Hugging Face transformers (MESHPARITY_UPSTREAM_PYTHON). Throws InputError naming the
// `verb` that needs it.
std::string upstream_python(const std::string& verb);

// The last 2,000 characters of a file, empty where there is none.
std::string tail_of(const std::filesystem::path& path);

// Most memory this process has held so far, in bytes (VmHWM); 0 where the system does not say.
std::int64_t peak_memory_bytes();

}  // namespace meshparity::cli

#include "harness/cli/rank_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <thread>

#include "harness/cli/case_arguments.h"
#include "harness/cli/rank_inputs.h"
#include "harness/cli/sweep.h"
#include "harness/cli/torch_bridge.h"
#include "harness/run/interruption.h"
#include "harness/run/scheduler.h"
#include "harness/types/error.h"

extern char** environ;

namespace meshparity::cli {
namespace {

namespace fs = std::filesystem;

// The file a rank hands to its parent, on one machine and read at once: counts and raw bytes, no portability
// needed.
class Writer {
 public:
  explicit Writer(const std::string& path) : out_(path, std::ios::binary), path_(path) {}
  void number(std::int64_t value) { out_.write(reinterpret_cast<const char*>(&value), sizeof value); }
  void text(const std::string& value) {
    number(static_cast<std::int64_t>(value.size()));
    out_.write(value.data(), static_cast<std::streamsize>(value.size()));
  }
  void shape(const Shape& shape) {
    number(static_cast<std::int64_t>(shape.size()));
    for (auto s : shape) number(s);
  }
  void bytes(const void* data, std::size_t size) {
    out_.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
  }
  void close() {
    out_.close();
    if (!out_) throw RunError(path_ + ": cannot be written");
  }

 private:
  std::ofstream out_;
  std::string path_;
};

class Reader {
 public:
  explicit Reader(const std::string& path) : in_(path, std::ios::binary), path_(path) {}
  std::int64_t number() {
    std::int64_t value = 0;
    bytes(&value, sizeof value);
    return value;
  }
  std::string text() {
    std::string value(static_cast<std::size_t>(number()), '\0');
    bytes(value.data(), value.size());
    return value;
  }
  Shape shape() {
    Shape shape(static_cast<std::size_t>(number()));
    for (auto& s : shape) s = number();
    return shape;
  }
  void bytes(void* data, std::size_t size) {
    if (size && !in_.read(static_cast<char*>(data), static_cast<std::streamsize>(size)))
      throw RunError(path_ + ": ends early");
  }

 private:
  std::ifstream in_;
  std::string path_;
};

void write_output(const std::string& path, const impl::RankOutput& output) {
  Writer file(path);
  file.number(static_cast<std::int64_t>(output.records.size()));
  for (const auto& record : output.records) {
    const TensorView view = view_of(record.value);
    file.text(record.key);
    file.number(static_cast<std::int64_t>(view.dtype));
    file.shape(view.shape);
    file.bytes(view.data, view.bytes());
  }
  file.number(output.parameter_bytes);
  for (const auto* shapes : {&output.stored_shapes, &output.gathered_shapes}) {
    file.number(static_cast<std::int64_t>(shapes->size()));
    for (const auto& [name, shape] : *shapes) file.text(name), file.shape(shape);
  }
  file.number(static_cast<std::int64_t>(output.communication.size()));
  for (const auto& event : output.communication)
    file.text(event.site), file.text(event.axis), file.text(event.op), file.number(event.elements_sent);
  file.close();
}

impl::RankOutput read_output(const std::string& path) {
  Reader file(path);
  impl::RankOutput output;
  for (std::int64_t left = file.number(); left > 0; --left) {
    impl::LocalRecord record;
    record.key = file.text();
    const auto dtype = static_cast<DType>(file.number());
    record.value = at::empty(file.shape(), scalar_type_of(dtype));
    file.bytes(record.value.data_ptr(), record.value.nbytes());
    output.records.push_back(std::move(record));
  }
  output.parameter_bytes = file.number();
  for (auto* shapes : {&output.stored_shapes, &output.gathered_shapes})
    for (std::int64_t left = file.number(); left > 0; --left) {
      const std::string name = file.text();
      (*shapes)[name] = file.shape();
    }
  for (std::int64_t left = file.number(); left > 0; --left) {
    impl::CommEvent event;
    event.site = file.text(), event.axis = file.text(), event.op = file.text();
    event.elements_sent = file.number();
    output.communication.push_back(std::move(event));
  }
  return output;
}

std::string tail_of(const fs::path& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  const std::string all = text.str();
  return all.size() > 2000 ? all.substr(all.size() - 2000) : all;
}

// The processes of one case; those still running are ended with it.
class Processes {
 public:
  ~Processes() {
    for (auto pid : pids_)
      if (pid > 0) {
        ::kill(pid, SIGKILL);
        ::waitpid(pid, nullptr, 0);
      }
  }
  void start(const std::vector<std::string>& argv, const std::string& stderr_file) {
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
    if (error) throw RunError("cannot start a rank process: " + std::string(std::strerror(error)));
    pids_.push_back(pid);
  }
  // Waits for all; returns the first rank that failed, -1 if none did, -2 after the time limit.
  int wait(double timeout_seconds) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_seconds);
    std::size_t running = pids_.size();
    while (running) {
      for (std::size_t rank = 0; rank < pids_.size(); ++rank) {
        int status = 0;
        if (pids_[rank] <= 0 || ::waitpid(pids_[rank], &status, WNOHANG) != pids_[rank]) continue;
        pids_[rank] = 0;
        --running;
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return static_cast<int>(rank);
      }
      if (std::chrono::steady_clock::now() > end) return -2;
      run::Interruption::check(std::to_string(pids_.size() - running) + " of " +
                               std::to_string(pids_.size()) + " ranks");
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return -1;
  }

 private:
  std::vector<pid_t> pids_;
};

}  // namespace

std::vector<impl::RankOutput> run_spawned(const CaseSpec& spec, double timeout_seconds) {
  const int world = spec.mesh.world();
  const run::Interruption interruption;
  // Within a sweep its shared folder: removed with it, whatever ends this process.
  const char* shared = std::getenv(kSharedFolderVariable);
  const fs::path base = shared ? fs::path(shared) : fs::temp_directory_path();
  std::string folder = (base / "meshparity-ranks-XXXXXX").string();
  if (!::mkdtemp(folder.data())) throw RunError("cannot make a temporary folder in " + base.string());
  const std::unique_ptr<std::string, void (*)(std::string*)> cleanup(&folder, [](std::string* path) {
    std::error_code ignored;
    fs::remove_all(*path, ignored);
  });
  const auto file = [&](const std::string& kind, int rank) {
    return folder + "/" + kind + std::to_string(rank);
  };
  {
    Processes processes;
    for (int rank = 0; rank < world; ++rank)
      processes.start({fs::read_symlink("/proc/self/exe").string(), "rank", "--case", spec.line(), "--rank",
                       std::to_string(rank), "--store", folder + "/store", "--out", file("out", rank),
                       "--parent", std::to_string(::getpid())},
                      file("err", rank));
    const int failed = processes.wait(timeout_seconds);
    if (failed >= 0)
      throw RunError("rank " + std::to_string(failed) + " failed: " + tail_of(file("err", failed)));
    if (failed == -2)
      throw RunError("ranks did not end within " + std::to_string(static_cast<int>(timeout_seconds)) + " s");
  }
  std::vector<impl::RankOutput> outputs;
  for (int rank = 0; rank < world; ++rank) outputs.push_back(read_output(file("out", rank)));
  return outputs;
}

int rank_main(const std::string& case_line, int rank, const std::string& store_file,
              const std::string& out_file, long parent) {
  run::die_with_parent(parent);
  const CaseSpec spec = single_case(case_line);
  const auto scenario = load_scenario(spec);
  constexpr double kCollectiveTimeoutSeconds = 60;
  const auto engine =
      spec.engine == "nccl"
          ? impl::make_nccl_engine(rank, spec.mesh.world(), store_file, kCollectiveTimeoutSeconds)
          : impl::make_gloo_engine(rank, spec.mesh.world(), store_file, kCollectiveTimeoutSeconds);
  write_output(out_file, impl::run_rank(rank_inputs(spec, *scenario), *engine, seams_of(spec)));
  return 0;
}

}  // namespace meshparity::cli

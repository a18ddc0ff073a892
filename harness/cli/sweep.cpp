#include "harness/cli/sweep.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "golden/descriptor.h"
#include "harness/run/interruption.h"
#include "harness/run/scheduler.h"
#include "harness/types/error.h"
#include "reports/report.h"

namespace meshparity::cli {
namespace {

namespace fs = std::filesystem;

// A folder that lives as long as the sweep: where workers share the reference's results and their ranks meet.
// Its owner holds a lock in it, so that a folder of a killed sweep is known and removed by the next one.
class SharedFolder {
 public:
  SharedFolder() {
    remove_abandoned();
    std::string name = (fs::temp_directory_path() / "meshparity-XXXXXX").string();
    if (!::mkdtemp(name.data()))
      throw RunError("cannot make a temporary folder in " + fs::temp_directory_path().string());
    path_ = name;
    lock_ = std::make_unique<golden::Descriptor>(open_lock(path_, O_CREAT));
    if (lock_->get() >= 0) ::flock(lock_->get(), LOCK_EX | LOCK_NB);
    // Only now under the name that others look for: before, nothing told it from an abandoned one.
    std::error_code failed;
    const fs::path final_name = path_.parent_path() / (kPrefix + name.substr(name.size() - 6));
    fs::rename(path_, final_name, failed);
    if (!failed) path_ = final_name;
  }
  ~SharedFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  SharedFolder(const SharedFolder&) = delete;
  SharedFolder& operator=(const SharedFolder&) = delete;
  std::string path() const { return path_.string(); }

 private:
  static constexpr const char* kPrefix = "meshparity-sweep-";
  static int open_lock(const fs::path& folder, int create) {
    return ::open((folder / "owner").c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | create, 0600);
  }
  static void remove_abandoned() {
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(fs::temp_directory_path(), ignored)) {
      if (entry.path().filename().string().rfind(kPrefix, 0) != 0) continue;
      const golden::Descriptor lock(open_lock(entry.path(), 0));
      if (lock.get() >= 0 && ::flock(lock.get(), LOCK_EX | LOCK_NB) == 0)
        fs::remove_all(entry.path(), ignored);
    }
  }

  fs::path path_;
  std::unique_ptr<golden::Descriptor> lock_;
};

CaseResult result_of(const run::Outcome& outcome, const CaseSpec& spec) {
  CaseResult result;
  if (outcome.ending == run::Ending::answered) {
    result = reports::case_from_json(outcome.answer);
    // A stray line on a worker's stdout would shift all later answers by one.
    if (result.case_line != spec.line()) {
      result = {};
      result.reason = "the worker answered for another case: " + outcome.answer.substr(0, 200);
    }
  } else {
    result.state = outcome.ending == run::Ending::timed_out ? State::timeout : State::error;
    result.reason = outcome.what;
    if (!outcome.stderr_tail.empty()) result.reason += "; stderr ends: " + outcome.stderr_tail;
  }
  result.case_line = spec.line();
  result.id = case_id(result.case_line);
  result.seconds = outcome.seconds;
  return result;
}

}  // namespace

std::vector<CaseResult> sweep(const std::vector<CaseSpec>& cases, const SweepOptions& options,
                              const std::function<void(const CaseResult&)>& done) {
  const run::Interruption interruption;
  const SharedFolder shared;
  std::vector<std::string> lines;
  for (const auto& spec : cases) lines.push_back(spec.line());
  run::WorkerCommand command;
  command.argv = {fs::read_symlink("/proc/self/exe").string(), "worker"};
  command.environment = {std::string(kSharedFolderVariable) + "=" + shared.path()};
  if (!options.explain) command.environment.push_back(std::string(kNoCausesVariable) + "=1");
  command.memory_bytes = options.memory_bytes;
  run::Options scheduling;
  scheduling.jobs =
      options.jobs > 0 ? options.jobs : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  scheduling.timeout_seconds = options.timeout_seconds;
  scheduling.stop = [] { return run::Interruption::signal() != 0; };

  std::vector<CaseResult> results(cases.size());
  std::size_t ended = 0;
  run::run_jobs(lines, command, scheduling, [&](const run::Outcome& outcome) {
    results[outcome.job] = result_of(outcome, cases[outcome.job]);
    ++ended;
    done(results[outcome.job]);
    return true;
  });
  // A signal after the last case came too late to take anything away.
  if (ended < cases.size())
    run::Interruption::check(std::to_string(ended) + " of " + std::to_string(cases.size()) + " cases");
  return results;
}

}  // namespace meshparity::cli

#include "harness/cli/sweep.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "harness/run/scheduler.h"
#include "harness/types/error.h"
#include "reports/report.h"

namespace meshparity::cli {
namespace {

namespace fs = std::filesystem;

// A folder that lives as long as the sweep: where workers share the reference's results.
class SharedFolder {
 public:
  SharedFolder() {
    std::string name = (fs::temp_directory_path() / "meshparity-XXXXXX").string();
    if (!::mkdtemp(name.data()))
      throw RunError("cannot make a temporary folder in " + fs::temp_directory_path().string());
    path_ = name;
  }
  ~SharedFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  SharedFolder(const SharedFolder&) = delete;
  SharedFolder& operator=(const SharedFolder&) = delete;
  std::string path() const { return path_.string(); }

 private:
  fs::path path_;
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
  const SharedFolder shared;
  std::vector<std::string> lines;
  for (const auto& spec : cases) lines.push_back(spec.line());
  run::WorkerCommand command;
  command.argv = {fs::read_symlink("/proc/self/exe").string(), "worker"};
  command.environment = {"MESHPARITY_REFERENCE_CACHE=" + shared.path()};
  command.memory_bytes = options.memory_bytes;
  run::Options scheduling;
  scheduling.jobs =
      options.jobs > 0 ? options.jobs : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  scheduling.timeout_seconds = options.timeout_seconds;

  std::vector<CaseResult> results(cases.size());
  run::run_jobs(lines, command, scheduling, [&](const run::Outcome& outcome) {
    results[outcome.job] = result_of(outcome, cases[outcome.job]);
    done(results[outcome.job]);
    return true;
  });
  return results;
}

}  // namespace meshparity::cli

// The loop that feeds job lines to workers and turns what happens to them into outcomes. One thread, one
// poll: no lock to get wrong. Process mechanics are in worker_process; a new ending of a job belongs into
// Slot below.
#include "harness/run/scheduler.h"

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <memory>
#include <optional>

#include "harness/run/worker_process.h"
#include "harness/types/error.h"

namespace meshparity::run {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kStderrTailBytes = 4096;
// A worker that writes this much without a newline is not writing an answer.
constexpr std::size_t kLongestAnswerBytes = std::size_t{256} << 20;
constexpr std::size_t kReadAtOnceBytes = std::size_t{1} << 20;
// A death is seen at once as the end of the worker's output, except where a child of the worker holds that
// pipe open.
constexpr int kLongestPollMs = 200;
// Time for a worker to leave after its stdin ended, and for a process whose output ended to be gone.
constexpr double kLeaveSeconds = 2;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// One of the `jobs` places: at most one worker, at most one job.
class Slot {
 public:
  bool busy() const { return job_.has_value(); }
  bool has_worker() const { return worker_ != nullptr; }
  WorkerProcess& worker() { return *worker_; }

  void start(std::size_t job, const std::string& line, const WorkerCommand& command) {
    started_ = Clock::now();
    if (!worker_) {
      worker_ = std::make_unique<WorkerProcess>(command);
      answered_ = 0;
    }
    job_ = job;
    line_bytes_ = line.size() + 1;
    out_.clear();
    err_.clear();
    worker_->send(line + "\n");
    worker_->flush();
  }

  // Looks at the worker after a poll; returns the outcome once the job has one. `again` is set where the
  // worker retired with the job unread: the job goes to another worker.
  std::optional<Outcome> look(double timeout_seconds, bool* again) {
    *again = false;
    worker_->flush();
    const std::size_t seen = out_.size();
    // Asked before reading: what a process wrote before it ended is then certainly in the pipe.
    const bool gone = worker_->ended();
    const bool open = worker_->read_stdout(&out_, gone ? kLongestAnswerBytes : kReadAtOnceBytes);
    read_stderr();
    const std::size_t newline = out_.find('\n', seen);
    if (newline != std::string::npos) {
      if (newline + 1 != out_.size()) return fail("wrote more than one line for one job");
      out_.pop_back();
      ++answered_;
      return finish(Ending::answered, "");
    }
    if (out_.size() > kLongestAnswerBytes)
      return fail("wrote " + std::to_string(out_.size()) + " bytes without ending the line");
    if (gone || !open) return died(again);
    if (timeout_seconds > 0 && seconds_since(started_) >= timeout_seconds) {
      char text[64];
      std::snprintf(text, sizeof text, "no answer within %g s", timeout_seconds);
      worker_->end_within(0);
      read_stderr();
      return finish(Ending::timed_out, text);
    }
    return std::nullopt;
  }

  std::size_t answered() const { return answered_; }
  std::size_t job() const { return *job_; }
  void forget_job() { job_.reset(); }
  std::unique_ptr<WorkerProcess> release() { return std::move(worker_); }

  double seconds_left(double timeout_seconds) const { return timeout_seconds - seconds_since(started_); }

 private:
  std::optional<Outcome> died(bool* again) {
    const bool by_itself = worker_->end_within(kLeaveSeconds);
    read_stderr();
    // FIONREAD of our end still counts what nobody read.
    const bool unread = worker_->unread_bytes() >= line_bytes_;
    if (by_itself && unread && answered_ > 0 && worker_->ended_cleanly()) {
      worker_.reset();
      *again = true;
      return std::nullopt;
    }
    std::string what = by_itself ? worker_->how_it_ended() : "closed its standard output";
    if (unread) what += " before it read the job";
    if (!out_.empty()) what += " within its answer";
    return finish(Ending::died, what);
  }

  Outcome fail(const std::string& what) {
    worker_->end_within(0);
    return finish(Ending::died, what);
  }

  Outcome finish(Ending ending, const std::string& what) {
    Outcome outcome;
    outcome.job = *job_;
    outcome.ending = ending;
    if (ending == Ending::answered) {
      outcome.answer = std::move(out_);
    } else {
      worker_.reset();
    }
    outcome.what = what;
    outcome.stderr_tail = err_;
    outcome.seconds = seconds_since(started_);
    job_.reset();
    out_.clear();
    return outcome;
  }

  void read_stderr() {
    worker_->read_stderr(&err_, kReadAtOnceBytes);
    if (err_.size() > kStderrTailBytes) err_.erase(0, err_.size() - kStderrTailBytes);
  }

  std::unique_ptr<WorkerProcess> worker_;
  std::optional<std::size_t> job_;
  std::size_t line_bytes_ = 0;
  std::size_t answered_ = 0;
  std::string out_, err_;
  Clock::time_point started_;
};

// Workers that were told to leave. Their stdin is closed; they are reaped while others go on.
class Leaving {
 public:
  ~Leaving() {
    const auto start = Clock::now();
    for (auto& worker : workers_) worker->end_within(std::max(0.0, kLeaveSeconds - seconds_since(start)));
  }
  void add(std::unique_ptr<WorkerProcess> worker) {
    worker->close_stdin();
    workers_.push_back(std::move(worker));
  }
  void reap() {
    for (auto& worker : workers_) {
      // What it says on its way out is read and dropped, so that a full pipe cannot keep it from leaving.
      std::string dropped;
      worker->read_stdout(&dropped, kReadAtOnceBytes);
      worker->read_stderr(&dropped, kReadAtOnceBytes);
    }
    workers_.erase(
        std::remove_if(workers_.begin(), workers_.end(), [](auto& worker) { return worker->ended(); }),
        workers_.end());
  }

 private:
  std::vector<std::unique_ptr<WorkerProcess>> workers_;
};

void wait_for_something(std::vector<Slot>& slots, double timeout_seconds) {
  std::vector<pollfd> waited;
  double wait_ms = kLongestPollMs;
  for (Slot& slot : slots) {
    if (!slot.busy()) continue;
    WorkerProcess& worker = slot.worker();
    if (worker.stdout_fd() >= 0) waited.push_back({worker.stdout_fd(), POLLIN, 0});
    if (worker.stderr_fd() >= 0) waited.push_back({worker.stderr_fd(), POLLIN, 0});
    if (worker.has_unsent() && worker.stdin_fd() >= 0) waited.push_back({worker.stdin_fd(), POLLOUT, 0});
    if (timeout_seconds > 0) wait_ms = std::min(wait_ms, 1 + 1e3 * slot.seconds_left(timeout_seconds));
  }
  // Interrupted or failed: the workers are looked at again either way.
  poll(waited.data(), waited.size(), static_cast<int>(std::max(0.0, wait_ms)));
}

}  // namespace

void run_jobs(const std::vector<std::string>& lines, const WorkerCommand& command, const Options& options,
              const std::function<bool(const Outcome&)>& done) {
  for (std::size_t i = 0; i < lines.size(); ++i)
    if (lines[i].find('\n') != std::string::npos)
      throw InputError("job " + std::to_string(i + 1) + " is not one line");

  std::deque<std::size_t> waiting;
  for (std::size_t i = 0; i < lines.size(); ++i) waiting.push_back(i);
  const std::size_t places =
      std::min<std::size_t>(static_cast<std::size_t>(std::max(1, options.jobs)), lines.size());
  const std::size_t jobs_per_worker = std::max<std::size_t>(1, options.jobs_per_worker);
  // Slots are destroyed first: after an early stop busy workers are killed, leaving ones get their time.
  Leaving leaving;
  std::vector<Slot> slots(places);

  for (;;) {
    bool any_busy = false;
    for (Slot& slot : slots) {
      if (!slot.busy() && slot.has_worker() && (waiting.empty() || slot.answered() >= jobs_per_worker))
        leaving.add(slot.release());
      if (!slot.busy() && !waiting.empty()) {
        const std::size_t job = waiting.front();
        slot.start(job, lines[job], command);
        waiting.pop_front();
      }
      any_busy = any_busy || slot.busy();
    }
    if (!any_busy || (options.stop && options.stop())) return;
    wait_for_something(slots, options.timeout_seconds);
    leaving.reap();
    for (Slot& slot : slots) {
      if (!slot.busy()) continue;
      bool again = false;
      const std::size_t job = slot.job();
      const std::optional<Outcome> outcome = slot.look(options.timeout_seconds, &again);
      if (again) {
        slot.forget_job();
        waiting.push_front(job);
      }
      if (outcome && !done(*outcome)) return;
    }
  }
}

}  // namespace meshparity::run

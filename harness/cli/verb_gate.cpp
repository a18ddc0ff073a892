// meshparity gate: run cases, judge them, report. Without arguments it runs scenarios/ci.cases.
#include <torch/version.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <set>
#include <sstream>

#include "harness/cli/case_arguments.h"
#include "harness/cli/clock.h"
#include "harness/cli/random_gate.h"
#include "harness/cli/sweep.h"
#include "harness/cli/verb_report.h"
#include "harness/cli/verbs.h"
#include "harness/run/cover.h"
#include "harness/types/error.h"
#include "reports/report.h"
#include "scenarios/faults/fault.h"

namespace meshparity::cli {
namespace {

// So many failing random cases are shrunk: one fault fails many cases, and each search takes up to a minute.
constexpr std::size_t kMostShrunk = 3;

struct GateOptions {
  run::CaseOptions cases;
  std::string case_file, baseline, history, resume;
  ReportFiles files;
  SweepOptions sweep;
  int random = 0;
  double shrink_seconds = run::ShrinkLimits{}.seconds;
  bool json_detail = false, quiet = false, list = false, cover = false;
};

// Did something go wrong that a smaller case may show too?
bool failed(const CaseResult& result) {
  return result.state == State::fail || result.state == State::invalid || result.state == State::error ||
         result.state == State::timeout;
}

// One line per case on the way, and on a terminal a last line with the count and the time left. The blocks of
// the first `put_off` failing cases are left to whoever shrinks them.
class Progress {
 public:
  Progress(std::size_t total, bool quiet, std::size_t put_off)
      : total_(total), put_off_(put_off), quiet_(quiet), terminal_(::isatty(STDOUT_FILENO)) {}

  void show(const CaseResult& result) {
    ++done_;
    if (terminal_) std::cout << "\r\033[K";
    const bool bad =
        result.state != State::pass && result.state != State::waived && result.state != State::skip;
    const bool later = failed(result) && put_off_ > later_.size();
    if (later) later_.insert(result.case_line);
    if (later) std::cout << state_name(result.state) << " " << result.id << ": to be shrunk\n";
    if (bad && !later) std::cout << reports::case_text(result);
    if (!bad && !quiet_) std::cout << line(result) << "\n";
    if (terminal_) std::cout << bar();
    std::cout << std::flush;
  }
  // Lines of the cases whose blocks were not shown.
  const std::set<std::string>& put_off() const { return later_; }
  void finish() const {
    if (terminal_) std::cout << "\r\033[K";
  }

 private:
  static std::string line(const CaseResult& result) {
    const CheckResult* worst = nullptr;
    for (const auto& check : result.checks)
      if (!worst || check.bound_used > worst->bound_used) worst = &check;
    char tail[160] = "";
    if (worst)
      std::snprintf(tail, sizeof tail, "  %5.2f s  %zu tensors, worst %.1f%% of its bound", result.seconds,
                    result.checks.size(), 100 * worst->bound_used);
    return std::string(state_name(result.state)) + " " + result.id + " " + result.case_line + tail +
           (worst ? " (" + worst->check + " " + worst->tensor + ")" : "");
  }
  std::string bar() const {
    const double elapsed = seconds_since(start_);
    const double left = elapsed / static_cast<double>(done_) * static_cast<double>(total_ - done_);
    const int width = 30, full = static_cast<int>(width * done_ / total_);
    char text[120];
    std::snprintf(text, sizeof text, "[%s%s] %zu of %zu, %.0f s left", std::string(full, '#').c_str(),
                  std::string(width - full, '.').c_str(), done_, total_, std::ceil(left));
    return text;
  }

  std::size_t total_, done_ = 0, put_off_;
  std::set<std::string> later_;
  bool quiet_, terminal_;
  Clock::time_point start_ = Clock::now();
};

std::string read_file(const std::string& path) {
  std::ifstream in(path);
  if (!in) throw InputError(path + ": cannot be read");
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// Failures that a baseline run had in the same case, check and tensor are WAIVED.
void waive(CaseResult& result, const std::set<std::string>& known) {
  bool open = false, any = false;
  for (auto& check : result.checks) {
    if (check.state != State::fail && check.state != State::invalid) continue;
    any = true;
    if (known.count(result.case_line + "\n" + check.check + "\n" + check.tensor))
      check.state = State::waived;
    else
      open = true;
  }
  if (any && !open && (result.state == State::fail || result.state == State::invalid))
    result.state = State::waived;
}

std::set<std::string> known_failures(const std::string& path) {
  std::set<std::string> known;
  if (path.empty()) return known;
  for (const auto& c : reports::from_json(read_file(path), path).cases)
    for (const auto& check : c.checks)
      if (check.state == State::fail || check.state == State::invalid || check.state == State::waived)
        known.insert(c.case_line + "\n" + check.check + "\n" + check.tensor);
  return known;
}

run::Expansion cases_of(const GateOptions& o, bool have_case_options) {
  if (o.random && o.cover)
    throw InputError("--random and --cover exclude each other: random cases share no mesh");
  if (o.random) return random_cases(o.cases, o.random);
  return have_case_options ? expand_cases(o.cases)
                           : expand_case_file(o.case_file.empty() ? "ci" : o.case_file);
}

// These failing cases get a smaller case that fails in the same way, and are shown with it.
void shrink_failures(std::vector<CaseResult>& results, const std::vector<CaseSpec>& cases,
                     const std::set<std::string>& lines, const GateOptions& o) {
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (!lines.count(results[i].case_line)) continue;
    run::ShrinkLimits limits;
    limits.seconds = o.shrink_seconds;
    const run::Shrunk smallest = shrink_case(cases[i], results[i], o.sweep, limits);
    results[i].shrunk = smallest.spec.line();
    std::cout << reports::case_text(results[i]) << "  " << smallest.trials << " smaller cases tried"
              << (smallest.minimal ? "; none that is one step smaller fails like it"
                                   : "; the limit of time or trials ended it")
              << "\n"
              << std::flush;
  }
}

int gate(const GateOptions& o, bool have_case_options, const std::string& command) {
  if (!o.case_file.empty() && have_case_options)
    throw InputError("--cases and case options exclude each other: put the options into the file's lines");
  auto expansion = cases_of(o, have_case_options);
  if (o.cover) {
    const std::size_t all = expansion.cases.size();
    const auto impossible = run::impossible_pairs(expansion.cases, config_of);
    expansion.cases = run::cover(expansion.cases);
    expansion.skipped.clear();
    if (o.list) {
      std::cout << "# A cover of " << all
                << " cases: every mesh of every model, and every pair of values that can meet.\n"
                << "# " << impossible.size() << " pairs cannot meet:\n";
      for (const auto& [pair, reason] : impossible)
        std::cout << "#   " << pair.first << " with " << pair.second << ": " << reason << "\n";
    }
  }
  if (o.list) {
    for (const auto& spec : expansion.cases) std::cout << spec.line() << "\n";
    for (const auto& skip : expansion.skipped)
      std::cout << "# SKIP " << skip.spec.line() << ": " << skip.reason << "\n";
    std::cout << "# " << expansion.cases.size() << " cases, " << expansion.skipped.size() << " skipped\n";
    return 0;
  }
  if (!o.cases.fault.empty()) faults::find(o.cases.fault);  // refuse an unknown id before anything runs
  o.files.require_writable();
  require_writable(o.history);
  const auto known = known_failures(o.baseline);
  const auto start = Clock::now();

  reports::Run run;
  run.command = command, run.version = kVersion, run.versions = {"LibTorch " TORCH_VERSION};
  run.listed = expansion.cases.size() + expansion.skipped.size();

  // With --resume, cases that an earlier --json says passed are taken from it.
  std::vector<CaseSpec> todo = expansion.cases;
  if (!o.resume.empty()) {
    const auto earlier = reports::from_json(read_file(o.resume), o.resume);
    std::set<std::string> passed;
    for (const auto& c : earlier.cases)
      if (c.state == State::pass) passed.insert(c.case_line);
    std::vector<CaseSpec> rest;
    for (const auto& spec : todo)
      if (!passed.count(spec.line())) rest.push_back(spec);
    for (const auto& c : earlier.cases)
      for (const auto& spec : todo)
        if (c.state == State::pass && c.case_line == spec.line()) run.cases.push_back(c);
    todo = rest;
  }
  Progress progress(todo.size(), o.quiet, o.random && o.shrink_seconds > 0 ? kMostShrunk : 0);
  if (!o.quiet && o.random)
    std::cout << "gate: " << todo.size() << " random cases of seed " << o.cases.seed
              << "; each is judged against the live reference" << std::endl;
  if (!o.quiet && !o.random)
    std::cout << "gate: " << todo.size() << " cases, float64 first; each is judged against its golden"
              << std::endl;
  auto results = sweep(todo, o.sweep, [&](CaseResult result) {
    waive(result, known);
    progress.show(result);
  });
  progress.finish();
  for (auto& result : results) waive(result, known);
  if (o.random) shrink_failures(results, todo, progress.put_off(), o);
  for (auto& result : results) run.cases.push_back(std::move(result));
  for (const auto& skip : expansion.skipped) {
    CaseResult result;
    result.case_line = skip.spec.line(), result.id = case_id(result.case_line);
    result.state = State::skip, result.reason = skip.reason;
    run.cases.push_back(result);
  }
  run.seconds = seconds_since(start);
  std::cout << reports::summary_text(run) << std::endl;
  o.files.write(run, o.json_detail);
  if (!o.history.empty()) {
    std::ostringstream line;
    line << run.seconds << "\t" << run.listed << "\t" << exit_code(run.cases) << "\t" << command;
    append_line(o.history, line.str());
  }
  return exit_code(run.cases);
}

}  // namespace

void add_gate(CLI::App& app, Chosen& chosen) {
  auto options = std::make_shared<GateOptions>();
  auto* verb = app.add_subcommand(
      "gate", "Run cases, judge them against goldens, report (default: scenarios/ci.cases)");
  add_case_arguments(*verb, options->cases);
  verb->add_option("--cases", options->case_file, "file of case lines, or its name in scenarios/")
      ->group("Running");
  verb->add_option(
          "--random", options->random,
          "that many random models, batches, meshes and flags, drawn from --seed; what the other options "
          "say restricts the draw, and a failing case is shrunk")
      ->check(CLI::Range(1, 1000000))
      ->group("Cases");
  verb->add_option("--shrink", options->shrink_seconds,
                   "seconds to look for a smaller case for each of the first failing random cases (default "
                   "60; 0: none)")
      ->check(CLI::Range(0.0, 86400.0))
      ->group("Running");
  verb->set_config("--config", "", "TOML file with any of these options")->group("Running");
  verb->add_option("--jobs", options->sweep.jobs, "worker processes (default: one per core)")
      ->check(CLI::Range(1, 256))
      ->group("Running");
  verb->add_option("--timeout", options->sweep.timeout_seconds, "seconds per case")
      ->check(CLI::PositiveNumber)
      ->group("Running");
  verb->add_option("--resume", options->resume, "result of an earlier --json: skip what passed there")
      ->group("Running");
  verb->add_option("--baseline", options->baseline, "result of an earlier --json: its failures are WAIVED")
      ->group("Running");
  verb->add_option("--history", options->history, "append one line per run to this file")->group("Reports");
  options->files.add_to(*verb);
  verb->add_flag("--json-detail", options->json_detail, "every tensor of every case, however many")
      ->group("Reports");
  verb->add_flag("--cover", options->cover,
                 "of the cases only every mesh, and enough others that every possible pair of values meets")
      ->group("Running");
  verb->add_flag("--quiet", options->quiet, "only failures and the summary")->group("Reports");
  verb->add_flag("--list", options->list, "print the cases, run nothing")->group("Running");
  verb->callback([verb, options, &chosen] {
    bool given = false;
    for (const auto* option : verb->get_options())
      given |= option->get_group() == "Cases" && option->count() > 0;
    std::string command = "meshparity gate";
    chosen.run = [options, given, command] { return gate(*options, given, command); };
  });
}

}  // namespace meshparity::cli

// meshparity faults: the planted faults, and the proof that the gate's own scenarios catch each at the tensor
// one would name, and name its cause.
#include <cstdio>
#include <iostream>

#include "harness/cli/case_arguments.h"
#include "harness/cli/fault_table.h"
#include "harness/cli/sweep.h"
#include "harness/cli/verbs.h"
#include "harness/types/error.h"
#include "harness/types/glob.h"
#include "reports/report.h"
#include "scenarios/faults/fault.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

int list_faults() {
  for (const auto& fault : faults::all())
    std::printf("%-36s %-11s %-45s %s\n", fault.id.c_str(), fault.check.c_str(), fault.tensor.c_str(),
                fault.what.c_str());
  const auto waiting = scenarios::load_unplanted_faults();
  for (const auto& row : waiting)
    std::printf("%-36s not planted: waits for %s%s%s\n", row.id.c_str(), row.waits_for.c_str(),
                row.why.empty() ? "" : "; ", row.why.c_str());
  std::printf("%zu faults planted, %zu rows of the public list wait\n", faults::all().size(), waiting.size());
  return 0;
}

// The first failing tensor that is the one a person would name.
const CheckResult* named_failure(const CaseResult& result, const faults::Fault& fault) {
  for (const auto& check : result.checks)
    if ((check.state == State::fail || check.state == State::invalid) && check.check == fault.check &&
        glob_match(fault.tensor, check.tensor))
      return &check;
  return nullptr;
}

void print(const FaultRun& run, const CaseResult& faulted, const CaseResult& twin) {
  std::printf("%s %-36s %s\n", run.caught() ? "CAUGHT" : "MISSED", run.fault->id.c_str(),
              run.case_line.c_str());
  if (run.named) {
    std::printf("       %s %s %s, %.3gx its bound\n", std::string(state_name(run.named->state)).c_str(),
                run.named->check.c_str(), run.named->tensor.c_str(), run.named->bound_used);
    std::printf("       first   %s\n       cause   %s (confidence %.2f)%s\n", run.first.c_str(),
                run.cause.c_str(), run.confidence,
                run.cause_right() ? "" : (", not \"" + run.fault->cause + "\"").c_str());
  } else {
    std::printf("       %s; no failing %s matches %s%s\n", std::string(state_name(faulted.state)).c_str(),
                run.fault->check.c_str(), run.fault->tensor.c_str(),
                faulted.reason.empty() ? "" : (": " + faulted.reason).c_str());
  }
  for (std::size_t i = 0; i < run.exact.size(); ++i)
    std::printf("       %s with it: %s\n", std::string(state_name(run.exact[i])).c_str(),
                run.fault->exact[i].c_str());
  if (!run.twin_green)
    std::printf("       the unfaulted twin is not green: %s %s\n",
                std::string(state_name(twin.state)).c_str(), twin.reason.c_str());
}

int run_faults(const std::vector<std::string>& ids, const SweepOptions& options,
               const std::string& markdown) {
  if (!markdown.empty() && !ids.empty())
    throw InputError("--markdown writes the table of all faults: give no ids");
  std::vector<const faults::Fault*> chosen;
  for (const auto& id : ids) chosen.push_back(&faults::find(id));
  if (ids.empty())
    for (const auto& fault : faults::all()) chosen.push_back(&fault);

  // For every fault and case: the unfaulted twin and the faulted run; behind a fault's last case, those in
  // which it is exact. One sweep for all.
  std::vector<CaseSpec> cases;
  std::vector<FaultRun> runs;
  const auto add = [&](const std::string& line, const std::string& fault) {
    cases.push_back(single_case(line));
    cases.back().fault = fault;
  };
  for (const auto* fault : chosen)
    for (const auto& line : fault->cases) {
      add(line, ""), add(line, fault->id);
      runs.push_back({});
      runs.back().fault = fault, runs.back().case_line = line;
      if (&line != &fault->cases.back()) continue;
      for (const auto& exact : fault->exact) add(exact, fault->id);
      runs.back().exact.resize(fault->exact.size());
    }
  const auto results = sweep(cases, options, [](const CaseResult&) {});
  int caught = 0, named = 0, misled = 0, exact = 0, exact_passed = 0;
  std::size_t next = 0;
  for (auto& run : runs) {
    const CaseResult &twin = results[next], &faulted = results[next + 1];
    next += 2;
    for (auto& state : run.exact)
      state = results[next++].state, ++exact, exact_passed += state == State::pass;
    run.named = named_failure(faulted, *run.fault);
    run.twin_green = twin.state == State::pass;
    if (run.named) read_explanation(*run.named, run);
    caught += run.caught(), named += run.cause_right(), misled += run.misled();
    print(run, faulted, twin);
  }
  if (exact > 0) std::printf("%d of %d cases in which a fault is exact pass with it\n", exact_passed, exact);
  std::printf(
      "%d of %zu planted faults caught at the tensor named, twins green; %d causes named, %d confidently "
      "wrong\n",
      caught, runs.size(), named, misled);
  if (!markdown.empty()) reports::write_file(markdown, faults_markdown(runs));
  return caught == static_cast<int>(runs.size()) && !runs.empty() && misled == 0 && exact_passed == exact ? 0
                                                                                                          : 1;
}

}  // namespace

void add_faults(CLI::App& app, Chosen& chosen) {
  auto* verb = app.add_subcommand("faults", "List the planted faults, or run them: each must be caught");
  verb->require_subcommand(1);
  verb->add_subcommand("list", "Every fault with the check and tensor that must show it")
      ->callback([&chosen] { chosen.run = [] { return list_faults(); }; });
  struct Options {
    std::vector<std::string> ids;
    std::string markdown;
    SweepOptions sweep;
  };
  auto options = std::make_shared<Options>();
  auto* run = verb->add_subcommand(
      "run", "Plant each fault in the gate's own cases; its twin without fault must be green");
  run->add_option("ids", options->ids, "fault ids (default: all)");
  run->add_option("--jobs", options->sweep.jobs, "worker processes")->check(CLI::Range(1, 256));
  run->add_option("--markdown", options->markdown, "write the table of all faults (docs/faults.md)");
  run->callback([options, &chosen] {
    chosen.run = [o = options] { return run_faults(o->ids, o->sweep, o->markdown); };
  });
}

}  // namespace meshparity::cli

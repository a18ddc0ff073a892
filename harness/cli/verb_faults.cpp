// meshparity faults: the planted faults, and the proof that the gate's own scenarios catch each at the tensor
// one would name.
#include <cstdio>
#include <fstream>
#include <iostream>

#include "harness/cli/case_arguments.h"
#include "harness/cli/sweep.h"
#include "harness/cli/verbs.h"
#include "harness/types/error.h"
#include "harness/types/glob.h"
#include "reports/report.h"
#include "scenarios/faults/fault.h"

namespace meshparity::cli {
namespace {

int list_faults() {
  for (const auto& fault : faults::all())
    std::printf("%-36s %-11s %-45s %s\n", fault.id.c_str(), fault.check.c_str(), fault.tensor.c_str(),
                fault.what.c_str());
  std::printf("%zu faults\n", faults::all().size());
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

int run_faults(const std::vector<std::string>& ids, const SweepOptions& options) {
  std::vector<const faults::Fault*> chosen;
  for (const auto& id : ids) chosen.push_back(&faults::find(id));
  if (ids.empty())
    for (const auto& fault : faults::all()) chosen.push_back(&fault);

  // For every fault and case: the faulted run and its unfaulted twin, one sweep for all.
  struct Entry {
    const faults::Fault* fault;
    std::size_t faulted, twin;
  };
  std::vector<CaseSpec> cases;
  std::vector<Entry> entries;
  for (const auto* fault : chosen)
    for (const auto& line : fault->cases) {
      CaseSpec spec = single_case(line);
      const std::size_t twin = cases.size();
      cases.push_back(spec);
      spec.fault = fault->id;
      cases.push_back(spec);
      entries.push_back({fault, twin + 1, twin});
    }
  const auto results = sweep(cases, options, [](const CaseResult&) {});
  int caught = 0;
  for (const auto& entry : entries) {
    const CaseResult& faulted = results[entry.faulted];
    const CheckResult* named = named_failure(faulted, *entry.fault);
    const bool green = results[entry.twin].state == State::pass;
    const bool ok = named && green;
    caught += ok;
    std::printf("%s %-36s %s\n", ok ? "CAUGHT" : "MISSED", entry.fault->id.c_str(),
                results[entry.twin].case_line.c_str());
    if (named)
      std::printf("       %s %s %s, %.3gx its bound\n", std::string(state_name(named->state)).c_str(),
                  named->check.c_str(), named->tensor.c_str(), named->bound_used);
    else
      std::printf("       %s; no failing %s matches %s%s\n", std::string(state_name(faulted.state)).c_str(),
                  entry.fault->check.c_str(), entry.fault->tensor.c_str(),
                  faulted.reason.empty() ? "" : (": " + faulted.reason).c_str());
    if (!green)
      std::printf("       the unfaulted twin is not green: %s %s\n",
                  std::string(state_name(results[entry.twin].state)).c_str(),
                  results[entry.twin].reason.c_str());
  }
  std::printf("%d of %zu planted faults caught at the tensor named, twins green\n", caught, entries.size());
  return caught == static_cast<int>(entries.size()) && !entries.empty() ? 0 : 1;
}

}  // namespace

void add_faults(CLI::App& app, Chosen& chosen) {
  auto* verb = app.add_subcommand("faults", "List the planted faults, or run them: each must be caught");
  verb->require_subcommand(1);
  verb->add_subcommand("list", "Every fault with the check and tensor that must show it")
      ->callback([&chosen] { chosen.run = [] { return list_faults(); }; });
  struct Options {
    std::vector<std::string> ids;
    SweepOptions sweep;
  };
  auto options = std::make_shared<Options>();
  auto* run = verb->add_subcommand(
      "run", "Plant each fault in the gate's own cases; its twin without fault must be green");
  run->add_option("ids", options->ids, "fault ids (default: all)");
  run->add_option("--jobs", options->sweep.jobs, "worker processes")->check(CLI::Range(1, 256));
  run->callback([options, &chosen] { chosen.run = [o = options] { return run_faults(o->ids, o->sweep); }; });
}

}  // namespace meshparity::cli

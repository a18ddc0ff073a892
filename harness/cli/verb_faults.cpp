// meshparity faults: the planted faults, and the proof that the gate's own scenarios catch each at the tensor
// one would name, and name its cause.
#include <cmath>
#include <cstdio>
#include <iostream>

#include "harness/cli/case_arguments.h"
#include "harness/cli/fault_table.h"
#include "harness/cli/gradient_ratios.h"
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

// One line per fault: what it does to the loss and to the gradient norm, and over which families. False where
// it shows nothing in this case.
bool print_ratios(const std::string& id, const GradientRatios& found, double ratio, double slack,
                  bool every_family) {
  if (!found.failed.empty()) {
    std::printf("%-38s stops: %s\n", id.c_str(), found.failed.c_str());
    return true;
  }
  auto least = found.families.begin(), most = least;
  for (auto at = found.families.begin(); at != found.families.end(); ++at) {
    if (at->second < least->second) least = at;
    if (at->second > most->second) most = at;
  }
  constexpr double kRounding = 1e-9;
  const bool gradients = most->second - 1 > kRounding || 1 - least->second > kRounding;
  const bool norm_alone = !gradients && std::abs(found.reported - 1) > kRounding;
  std::string verdict = "does not reach it in this case";
  if (!found.equal_loss)
    verdict = "excluded: the loss differs";
  else if (norm_alone)
    verdict = "the norm alone: gradients are right";
  else if (!gradients)
    return false;
  else if (most->second - least->second < kRounding)
    verdict = "excluded: one factor on every gradient";
  else if (can_show(found, ratio, slack))
    verdict = "COMPATIBLE";
  std::printf("%-38s loss %.1e  norm %.4fx  families %.4fx %s .. %.4fx %s  %s\n", id.c_str(),
              found.loss_change, norm_alone ? found.reported : found.overall, least->second,
              least->first.c_str(), most->second, most->first.c_str(), verdict.c_str());
  if (every_family)
    for (const auto& [family, r] : found.families) std::printf("    %10.4fx %s\n", r, family.c_str());
  return true;
}

int run_ratios(const std::vector<std::string>& ids, const run::CaseOptions& options, double ratio,
               double slack, bool every_family) {
  std::vector<const faults::Fault*> chosen;
  for (const auto& id : ids) chosen.push_back(&faults::find(id));
  if (ids.empty())
    for (const auto& fault : faults::all()) chosen.push_back(&fault);
  for (CaseSpec spec : expand_cases(options).cases) {
    std::printf("%s, against %.4g at an equal loss\n", spec.line().c_str(), ratio);
    std::size_t silent = 0;
    for (const auto* fault : chosen) {
      spec.fault = fault->id;
      silent += !print_ratios(fault->id, gradient_ratios(spec), ratio, slack, every_family);
      std::fflush(stdout);
    }
    if (silent > 0) std::printf("%zu of %zu faults show nothing in this case\n", silent, chosen.size());
  }
  return 0;
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
  struct Ratios {
    std::vector<std::string> ids;
    run::CaseOptions cases;
    double ratio = 1.13, slack = 0.005;
    bool families = false;
  };
  auto ratios = std::make_shared<Ratios>();
  auto* ratios_verb = verb->add_subcommand(
      "ratios",
      "What each fault does to the gradient norm of a case, and which could show a ratio seen elsewhere");
  ratios_verb->add_option("ids", ratios->ids, "fault ids (default: all)");
  ratios_verb->add_option("--ratio", ratios->ratio, "gradient norm, parallel over single, as reported")
      ->check(CLI::PositiveNumber);
  ratios_verb->add_option("--slack", ratios->slack, "half a unit of its last digit")
      ->check(CLI::NonNegativeNumber);
  ratios_verb->add_flag("--families", ratios->families, "print the ratio of every parameter family");
  add_case_arguments(*ratios_verb, ratios->cases);
  ratios_verb->callback([ratios, &chosen] {
    chosen.run = [o = ratios] { return run_ratios(o->ids, o->cases, o->ratio, o->slack, o->families); };
  });
}

}  // namespace meshparity::cli

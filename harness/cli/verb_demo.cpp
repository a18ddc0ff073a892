// meshparity demo [FAULT]: what a red verdict looks like. Plants one of the packaged faults, shows the
// failing block, then the same case without it, green.
#include <iostream>

#include "harness/cli/case_arguments.h"
#include "harness/cli/run_case.h"
#include "harness/cli/verbs.h"
#include "harness/types/error.h"
#include "harness/types/glob.h"
#include "reports/report.h"
#include "scenarios/faults/fault.h"

namespace meshparity::cli {
namespace {

// Six that tell the story: a layout fault, a missing reduction with and without sp, a count, an optimizer
// step, a norm.
constexpr const char* kDemoFaults[] = {"conv1d-weight-not-block-sharded",
                                       "sp-norm-grad-no-allreduce",
                                       "kv-replica-grad-unsummed",
                                       "dp-tokens-not-global",
                                       "param-gather-stale",
                                       "gradnorm-replicated-overcount"};

int demo(const std::string& id) {
  bool packaged = false;
  for (const char* name : kDemoFaults) packaged |= id == name;
  if (!packaged) {
    std::string list;
    for (const char* name : kDemoFaults) list += "\n  " + std::string(name);
    throw InputError("demo '" + id + "' is unknown; the demos are:" + list);
  }
  const auto& fault = faults::find(id);
  CaseSpec spec = single_case(fault.cases.front());
  std::cout << "Planting " << fault.id << ": " << fault.what << "\n  seen in public: " << fault.source
            << "\n\n";
  spec.fault = fault.id;
  const CaseResult red = run_case(spec);
  // Many tensors fail; first the one a person would name.
  const CheckResult* named = nullptr;
  for (const auto& check : red.checks)
    if (!named && check.state != State::pass && check.check == fault.check &&
        glob_match(fault.tensor, check.tensor))
      named = &check;
  std::cout << (named ? reports::failing_block(red, *named) : reports::case_text(red, 2)) << "\n";
  spec.fault.clear();
  const CaseResult green = run_case(spec);
  std::cout << "The same case without the fault:\n"
            << state_name(green.state) << " " << green.id << " " << green.case_line << "  ("
            << green.checks.size() << " tensors)\n";
  if (red.state == State::pass || green.state != State::pass) {
    std::cout << "demo: the planted fault was " << (red.state == State::pass ? "not caught" : "caught")
              << ", its twin is " << state_name(green.state) << "\n";
    return 1;
  }
  return 0;
}

}  // namespace

void add_demo(CLI::App& app, Chosen& chosen) {
  auto fault = std::make_shared<std::string>(kDemoFaults[0]);
  auto* verb = app.add_subcommand("demo", "Plant a fault, see it caught and named, then the green twin");
  verb->add_option("fault", *fault, "one of the six packaged demos");
  verb->callback([fault, &chosen] { chosen.run = [fault] { return demo(*fault); }; });
}

}  // namespace meshparity::cli

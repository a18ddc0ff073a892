// meshparity-judge: the verbs that compute no model (compare, drift, golden, export, report, plan, cut,
// weights). It links no LibTorch, so whoever only judges dumps needs no 1.3 GB wheel; meshparity hands these
// verbs to it. To add a verb: verb_<name>.{h,cpp}, one line in main.
#include <string>

#include "harness/cli/verb_compare.h"
#include "harness/cli/verb_cut.h"
#include "harness/cli/verb_drift.h"
#include "harness/cli/verb_export.h"
#include "harness/cli/verb_golden.h"
#include "harness/cli/verb_plan.h"
#include "harness/cli/verb_report.h"
#include "harness/cli/verb_weights.h"
#include "harness/cli/verbs.h"

int main(int argc, char** argv) {
  using namespace meshparity;
  CLI::App app("Judges dumps and goldens of Qwen3.5 runs; needs no LibTorch.", "meshparity");
  app.set_version_flag("--version", std::string("meshparity ") + cli::kVersion);
  app.require_subcommand(1);
  cli::Chosen chosen;
  cli::add_compare(app, chosen);
  cli::add_drift(app, chosen);
  cli::add_golden(app, chosen);
  cli::add_export(app, chosen);
  cli::add_report(app, chosen);
  cli::add_plan(app, chosen);
  cli::add_cut(app, chosen);
  cli::add_weights(app, chosen);
  return cli::run_command_line(app, chosen, argc, argv);
}

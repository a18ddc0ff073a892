// meshparity drift --model: the drift between two dtype policies of a model, without anybody's dump.
#include <iostream>
#include <memory>

#include "harness/cli/case_arguments.h"
#include "harness/cli/model_drift.h"
#include "harness/cli/verb_report.h"
#include "harness/cli/verbs.h"
#include "harness/types/error.h"
#include "reports/attribution.h"
#include "reports/report.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

struct ModelDriftOptions {
  run::CaseOptions cases;
  std::string train = "float64", rollout = "float64", json, markdown;
  bool each_place = false;
};

int judge_model_drift(ModelDriftOptions& o) {
  require_writable(o.json), require_writable(o.markdown);
  if (o.cases.mesh.empty()) o.cases.mesh = {"dp1"};
  if (o.cases.rollout_mesh.empty()) o.cases.rollout_mesh = {"dp1"};
  const auto expansion = expand_cases(o.cases);
  if (expansion.cases.size() != 1)
    throw InputError("drift --model: this describes " + std::to_string(expansion.cases.size()) +
                     " cases, one is needed");
  const Attribution found = model_drift(expansion.cases.front(), scenarios::load_policy(o.train),
                                        scenarios::load_policy(o.rollout), o.each_place);
  std::cout << reports::attribution_console(found) << std::flush;
  if (!o.json.empty()) reports::write_file(o.json, reports::attribution_json(found));
  if (!o.markdown.empty()) reports::write_file(o.markdown, reports::attribution_markdown(found));
  return 0;
}

}  // namespace

void add_model_drift(CLI::App& app, Chosen& chosen) {
  auto o = std::make_shared<ModelDriftOptions>();
  auto* verb = app.add_subcommand("drift",
                                  "Judge train against rollout logprobs: of dumps, or with --model "
                                  "of two dtype policies");
  add_case_arguments(*verb, o->cases);
  verb->add_option("--train-policy", o->train,
                   "dtype policy of training: a name in scenarios/policies or a TOML");
  verb->add_option("--rollout-policy", o->rollout, "dtype policy of rollout");
  verb->add_flag("--attribute", o->each_place, "exchange one choice at a time, from both sides");
  verb->add_option("--json", o->json, "write what was found")->group("Reports");
  verb->add_option("--markdown", o->markdown, "write it as Markdown")->group("Reports");
  verb->callback([o, &chosen] { chosen.run = [o] { return judge_model_drift(*o); }; });
}

}  // namespace meshparity::cli

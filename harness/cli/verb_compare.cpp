// meshparity compare: reads both sides, judges, prints one line per check and a block per failing tensor,
// writes the reports asked for. What is judged and how stands in verb_compare_judge.h.
#include "harness/cli/verb_compare.h"

#include <iostream>
#include <set>

#include "golden/schema.h"
#include "harness/cli/clock.h"
#include "harness/cli/verb_compare_explain.h"
#include "harness/cli/verb_compare_judge.h"
#include "harness/cli/verb_report.h"
#include "harness/types/command_line.h"
#include "harness/types/error.h"
#include "reports/report.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

struct CompareOptions {
  std::string golden, dump, other, model, dtype, tensor = "*";
  std::vector<std::string> checks;
  ReportFiles files;
  bool quiet = false;
};

// The arguments that select what is compared, as a shell takes them: what re-runs the verdict.
std::string line_of(const CompareOptions& o) {
  std::string line = "compare";
  if (!o.golden.empty()) line += " --golden " + quoted(o.golden);
  if (!o.model.empty()) line += " --model " + quoted(o.model);
  if (!o.dtype.empty()) line += " --dtype " + o.dtype;
  line += " " + quoted(o.dump);
  if (!o.other.empty()) line += " " + quoted(o.other);
  std::string checks;
  for (const auto& c : o.checks) checks += (checks.empty() ? "" : ",") + c;
  if (!checks.empty()) line += " --check " + checks;
  if (o.tensor != "*") line += " --tensor " + quoted(o.tensor);
  return line;
}

std::set<std::string> known_checks() {
  std::set<std::string> known(kCompareChecks.begin(), kCompareChecks.end());
  known.insert("all");
  return known;
}

CompareRules rules_of(const CompareOptions& o) {
  CompareRules rules;
  for (const auto& check : o.checks) {
    if (check == "all") {
      rules.checks.clear();
      break;
    }
    rules.checks.push_back(check);
  }
  rules.tensor = o.tensor;
  if (!o.dtype.empty()) {
    rules.dtype = parse_dtype(o.dtype);
    if (!is_floating(*rules.dtype)) throw InputError("--dtype " + o.dtype + ": must be a floating dtype");
  }
  rules.policy = scenarios::load_tolerance();
  return rules;
}

std::optional<ModelConfig> config_in(const golden::Store& store) {
  const auto found = store.strings.find("config");
  if (found == store.strings.end()) return std::nullopt;
  return scenarios::parse_model_config(found->second, store.file + ": config");
}

// The side that is believed, and what is known from it.
golden::Store read_want(const CompareOptions& o, const golden::Store& got, CompareRules& rules) {
  if (o.golden.empty()) {
    golden::Store want = read_dump(o.other);
    rules.want_name = "other dump";
    if (!o.model.empty())
      rules.config = scenarios::load_model(o.model);
    else if (!(rules.config = config_in(want)))
      rules.config = config_in(got);
    if (want.strings.count("train")) rules.train = golden::train_of(want);
    return want;
  }
  golden::Store want = golden::read(o.golden, golden::Kind::golden);
  rules.config = config_in(want);
  golden::check_weights(want, *rules.config);
  rules.train = golden::train_of(want);
  return want;
}

void settle_state(CaseResult& result) {
  bool compared = false;
  result.state = State::pass;
  for (const auto& check : result.checks) {
    if (worse(check.state, result.state)) result.state = check.state;
    compared |= check.state != State::skip && check.check != "inputs" && check.elements > 0;
  }
  if (result.state == State::pass && !compared) {
    result.state = State::untrusted;
    result.reason = "nothing was compared: no expected value is in both files and asked for";
  }
}

int compare_dump(const CompareOptions& o) {
  if (o.golden.empty() == o.other.empty())
    throw InputError("compare needs a dump and one side to judge it by: --golden FILE, or a second dump");
  o.files.require_writable();
  const auto start = Clock::now();
  CompareRules rules = rules_of(o);
  const golden::Store got = read_dump(o.dump);
  const golden::Store want = read_want(o, got, rules);

  CaseResult result;
  result.case_line = line_of(o);
  result.id = case_id(result.case_line);
  result.checks = judge_dump(got, want, rules);
  explain_dump(got, want, rules, result.checks);
  settle_state(result);
  result.seconds = seconds_since(start);

  reports::Run run;
  run.command = "meshparity " + result.case_line;
  run.version = kVersion;
  run.cases = {result};
  run.listed = 1, run.seconds = result.seconds;
  if (!o.quiet) std::cout << reports::verdict_table(result);
  if (result.state != State::pass || !o.quiet) std::cout << reports::case_text(result);
  std::cout << reports::summary_text(run) << std::endl;
  o.files.write(run, true);
  return exit_code(run.cases);
}

}  // namespace

void add_compare(CLI::App& app, Chosen& chosen) {
  auto o = std::make_shared<CompareOptions>();
  auto* verb = app.add_subcommand("compare", "Judge a dump of any origin against a golden or another dump");
  verb->add_option("dump", o->dump, "HDF5 file in the golden schema; any part of it")->required();
  verb->add_option("other,--dump-b", o->other, "another dump to judge it by, instead of --golden");
  verb->add_option("--golden", o->golden, "golden file to judge it by");
  verb->add_option("--check", o->checks,
                   "comma list of inputs,logits,logprobs,loss,grad_norm,grads,grads_mtp,weights,activations")
      ->delimiter(',')
      ->check(CLI::IsMember(known_checks()));
  verb->add_option("--tensor", o->tensor, "glob over tensor names");
  verb->add_option("--dtype", o->dtype, "dtype it was computed in, where the file stores a wider one");
  verb->add_option("--model", o->model,
                   "for two dumps without a config: a model name, config.json or directory");
  verb->add_flag("--quiet", o->quiet, "only failures and the summary");
  o->files.add_to(*verb);
  verb->callback([o, &chosen] { chosen.run = [o] { return compare_dump(*o); }; });
}

}  // namespace meshparity::cli

#include "harness/cli/explain_case.h"

#include <algorithm>
#include <optional>

#include "harness/cli/bounds.h"
#include "harness/cli/judge_case.h"
#include "harness/cli/rank_tensors.h"
#include "harness/compare/compare.h"
#include "harness/diagnose/case.h"
#include "harness/layout/layout.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

// Above this a second run of the case is not worth its time.
constexpr double kCheapSeconds = 20;

// The case with everything judged and recorded, whatever --check and --tensor asked for.
CaseSpec recorded(CaseSpec spec) {
  spec.tensor = "*";
  spec.checks = {"logits",  "logprobs", "loss",      "grads",      "grad_norm",
                 "weights", "replicas", "placement", "activations"};
  return spec;
}

// A case's tensors with what owns their values.
struct Recorded {
  layout::LayoutMap map;
  const Expected& expected;
  std::map<std::string, HostTensor> gathered;
  diagnose::CaseEvidence evidence;

  // `expected` and `outputs` must outlive this.
  Recorded(const CaseSpec& spec, const Scenario& scenario, const Expected& wanted, int steps,
           const std::vector<impl::RankOutput>& outputs)
      : map(scenario.config, spec.mesh, spec.flags, scenario.batch, scenario.placements), expected(wanted) {
    evidence.map = &map, evidence.train = scenario.train, evidence.loss = spec.loss;
    const RankTensors locals = by_key(outputs);
    const auto policy = scenarios::load_tolerance();
    const auto context = context_of(spec, scenario, expected);
    for (const auto& key : expected.keys())
      if (name_of(key).step <= steps) add(key, locals, policy, context);
  }

 private:
  void add(const std::string& key, const RankTensors& locals, const tolerance::Policy& policy,
           const tolerance::Context& context) {
    diagnose::CaseTensor tensor;
    tensor.key = key;
    tensor.want = *expected.find(key);
    const auto found = locals.find(key);
    if (found == locals.end()) {
      tensor.wrong = true, tensor.invalid = "no rank emitted it";
    } else {
      tensor.locals = found->second;
      layout::Gathered global = layout::unshard(map, key, found->second);
      tensor.replicas_differ = global.replica_differ, tensor.replicas_where = global.replica_where;
      tensor.invalid = not_whole(global);
      tensor.wrong = !tensor.invalid.empty();
      gathered[key] = std::move(global.global);
      if (tensor.invalid.empty()) judge(key, gathered.at(key), policy, context, tensor);
    }
    evidence.tensors.push_back(std::move(tensor));
  }

  void judge(const std::string& key, const HostTensor& got, const tolerance::Policy& policy,
             const tolerance::Context& context, diagnose::CaseTensor& tensor) const {
    tensor.got = got.view();
    const KeyName name = name_of(key);
    std::optional<TensorView> grad;
    if (name.check == "weights")
      grad = expected.find("grads/" + name.tensor.substr(name.tensor.find('/') + 1));
    const auto bound = bound_of(policy, context, key, tensor.want, grad ? &*grad : nullptr);
    tensor.norm_bound = bound.norm, tensor.element_bound = bound.element;
    const auto metrics = compare::measure(tensor.got, tensor.want);
    if (!metrics.comparable) {
      tensor.invalid = metrics.invalid, tensor.wrong = true;
      return;
    }
    tensor.wrong =
        compare::judge(name.check, name.tensor, metrics, bound, tensor.got, tensor.want).state != State::pass;
  }
};

bool failed(const CheckResult& check) {
  return check.state == State::fail || check.state == State::invalid;
}

// The block's lines stand in a fixed order: bound is the last of them.
void add_lines(CheckResult& check, const std::vector<std::string>& lines) {
  const auto at = std::find_if(check.detail.begin(), check.detail.end(),
                               [](const std::string& line) { return line.rfind("bound ", 0) == 0; });
  check.detail.insert(at, lines.begin(), lines.end());
}

// The lines `first` and `cause`. `spec` judges and records everything.
std::vector<std::string> diagnosed(const CaseSpec& spec, const Scenario& scenario, const Expected& expected,
                                   int steps, const std::vector<impl::RankOutput>& outputs) {
  Recorded record(spec, scenario, expected, steps, outputs);
  for (const auto& check : judge_case(spec, scenario, expected, steps, outputs))
    if (check.check == "placement" && failed(check))
      record.evidence.placement.emplace_back(check.tensor, check.reason);
  const diagnose::Diagnosis diagnosis = diagnose::diagnose_case(record.evidence);
  std::vector<std::string> lines;
  if (!diagnosis.first.empty()) lines.push_back(diagnose::first_line(diagnosis));
  lines.push_back(diagnosis.causes.empty() ? "cause   not found"
                                           : diagnose::cause_line(diagnosis.causes.front()));
  return lines;
}

std::vector<std::string> explanation(const CaseSpec& spec, const std::shared_ptr<const Scenario>& scenario,
                                     const RunRanks& run_ranks, const CaseResult& result) {
  if (result.seconds > kCheapSeconds)
    return {"cause   not looked for, the case takes long; --check activations looks"};
  try {
    const CaseSpec whole = recorded(spec);
    const int steps = steps_of(whole, *scenario);
    const auto outputs = run_ranks(whole);
    return diagnosed(whole, *scenario, Expected(scenario, whole, steps), steps, outputs);
  } catch (const std::exception& error) {
    return {"cause   not found: the run that records everything failed: " + std::string(error.what())};
  }
}

}  // namespace

void explain_case(const CaseSpec& spec, const std::shared_ptr<const Scenario>& scenario,
                  const RunRanks& run_ranks, CaseResult& result) {
  if (std::none_of(result.checks.begin(), result.checks.end(), failed)) return;
  const auto lines = explanation(spec, scenario, run_ranks, result);
  for (auto& check : result.checks)
    if (failed(check)) add_lines(check, lines);
}

void explain_outputs(const CaseSpec& spec, const Scenario& scenario, const Expected& expected,
                     const std::vector<impl::RankOutput>& outputs, CaseResult& result) {
  if (std::none_of(result.checks.begin(), result.checks.end(), failed)) return;
  const auto lines = diagnosed(recorded(spec), scenario, expected, 0, outputs);
  for (auto& check : result.checks)
    if (failed(check)) add_lines(check, lines);
}

}  // namespace meshparity::cli

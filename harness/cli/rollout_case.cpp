#include "harness/cli/rollout_case.h"

#include <algorithm>

#include "harness/cli/expected_rollout.h"
#include "harness/cli/judge_case.h"
#include "harness/cli/judge_rollout.h"
#include "harness/cli/rank_inputs.h"
#include "harness/cli/rank_process.h"
#include "harness/types/error.h"
#include "scenarios/faults/fault.h"

namespace meshparity::cli {
namespace {

void require_rollout(const CaseSpec& spec, const RunProducts& products) {
  if (products.communication || products.weights)
    throw InputError("--rollout-mesh: no --save-weights or --communication with it");
  if (spec.fault.empty()) return;
  const auto& cases = faults::find(spec.fault).cases;
  const auto of_rollout = [](const std::string& line) { return line.find("--rollout-mesh") != line.npos; };
  if (std::none_of(cases.begin(), cases.end(), of_rollout))
    throw InputError("--fault " + spec.fault + " with --rollout-mesh: it is a fault of training");
}

// `expected` must outlive it.
impl::RolloutInputs rollout_inputs(const CaseSpec& spec, const Scenario& scenario,
                                   const ExpectedRollout& expected) {
  impl::RolloutInputs inputs;
  inputs.train = rank_inputs(spec, scenario), inputs.mesh = *spec.rollout_mesh, inputs.spec = spec.rollout;
  if (spec.rollout.replay) inputs.routes = &expected.replayed;
  return inputs;
}

std::vector<impl::RankOutput> rollout_ranks(const CaseSpec& spec, const Scenario& scenario,
                                            const ExpectedRollout& expected) {
  if (spec.engine != "inprocess") return run_spawned(spec, kSpawnTimeoutSeconds, RankProgram::rollout);
  return run_threads(rollout_inputs(spec, scenario, expected), seams_of(spec), in_process_options(spec));
}

// The forward of training, which neighbouring cases share. A fault of rollout is none of it.
std::shared_ptr<const std::vector<impl::RankOutput>> trained(const CaseSpec& spec, const Scenario& scenario) {
  CaseSpec forward = spec;
  forward.fault.clear(), forward.rollout = {}, forward.rollout_mesh = Mesh{};
  forward.checks.clear(), forward.tensor = "*";
  if (forward.engine != "inprocess") forward.spawn = forward.mesh.world();
  const std::string line = forward.line();
  static std::string kept_line;
  static std::shared_ptr<const std::vector<impl::RankOutput>> kept;
  if (kept_line != line || !kept) {
    kept = std::make_shared<std::vector<impl::RankOutput>>(run_ranks(forward, scenario));
    kept_line = line;
  }
  return kept;
}

// Both sides as `drift` reads them: of training its logprobs, of rollout those that its sampler would report.
void write_dumps(const CaseSpec& spec, const Scenario& scenario, const RolloutRuns& runs,
                 const RunProducts& products) {
  if (!products.dump.empty())
    write_dump(products.dump, spec, scenario, gather_case(spec, scenario, *runs.trained));
  if (products.rollout_dump.empty()) return;
  auto rolled = gather_rollout(spec, scenario, runs.rolled);
  std::map<std::string, HostTensor> tensors;
  tensors.emplace("logits", std::move(rolled.at("rollout/logits")));
  tensors.emplace("logprobs", std::move(rolled.at("rollout/sampling_logprobs")));
  write_dump(products.rollout_dump, spec, scenario, std::move(tensors));
}

}  // namespace

impl::RankOutput roll_out(const CaseSpec& spec, const Scenario& scenario, impl::Engine& engine) {
  // Without ownership: load_scenario keeps what it gave.
  const std::shared_ptr<const Scenario> shared(std::shared_ptr<const Scenario>(), &scenario);
  const auto expected = expected_rollout(shared, spec);
  return impl::run_rollout(rollout_inputs(spec, scenario, *expected), engine, seams_of(spec));
}

CaseResult run_rollout_case(const CaseSpec& spec, const RunProducts& products) {
  require_rollout(spec, products);
  const auto start = Clock::now();
  const auto scenario = load_scenario(spec);
  return conduct(spec, start, [&](CaseResult& result) {
    const auto expected = expected_rollout(scenario, spec);
    RolloutRuns runs;
    runs.trained = trained(spec, *scenario);
    runs.rolled = rollout_ranks(spec, *scenario, *expected);
    runs.again = rollout_ranks(spec, *scenario, *expected);
    result.checks = judge_rollout(spec, *scenario, *expected, runs);
    write_dumps(spec, *scenario, runs, products);
    conclude(result);
  });
}

}  // namespace meshparity::cli

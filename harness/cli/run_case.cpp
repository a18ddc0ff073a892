#include "harness/cli/run_case.h"

#include <cstdlib>

#include "golden/store.h"
#include "harness/cli/apart_case.h"
#include "harness/cli/communication_table.h"
#include "harness/cli/explain_case.h"
#include "harness/cli/judge_case.h"
#include "harness/cli/rank_inputs.h"
#include "harness/cli/reference_routes.h"
#include "harness/cli/rollout_case.h"
#include "harness/cli/sweep.h"
#include "harness/types/error.h"

namespace meshparity::cli {
namespace {

// Where a dump has what ranks emit; empty where it has it not. Gradients of the term mtp alone have a group
// of their own, and the norm and the steps that a golden holds are not theirs (docs/decisions/0006).
std::string dumped_as(const std::string& key, const std::string& loss) {
  const auto begins = [&](const char* prefix) { return key.rfind(prefix, 0) == 0; };
  if (begins("activations/") || begins("trace/")) return "";
  if (loss != "mtp") return key;
  if (key == "grad_norm" || begins("step")) return "";
  return begins("grads/") ? "grads_mtp/" + key.substr(6) : key;
}

}  // namespace

void write_dump(const std::string& file, const CaseSpec& spec, const Scenario& scenario,
                std::map<std::string, HostTensor> tensors) {
  golden::Store store;
  store.attributes["generator"] = "meshparity run " + spec.line();
  store.strings["config"] = scenario.config.json;
  for (auto& [name, tensor] : golden::inputs_of(scenario.batch))
    store.tensors["inputs/" + name] = std::move(tensor);
  for (auto& [key, tensor] : tensors)
    if (const std::string path = dumped_as(key, spec.loss); !path.empty())
      store.tensors["expected/" + path] = std::move(tensor);
  golden::write(file, store);
}

namespace {

// The weights that a run of so many steps ends with, by checkpoint name.
std::map<std::string, HostTensor> final_weights(const CaseSpec& spec, const Scenario& scenario, int steps,
                                                const std::vector<impl::RankOutput>& outputs) {
  const std::string prefix = steps > 0 ? "step" + std::to_string(steps) + "/weights/" : "trace/weights/";
  std::map<std::string, HostTensor> weights;
  for (auto& [key, tensor] : gather_case(spec, scenario, outputs))
    if (key.rfind(prefix, 0) == 0) weights.emplace(key.substr(prefix.size()), std::move(tensor));
  return weights;
}

}  // namespace

CaseResult conduct(const CaseSpec& spec, Clock::time_point start,
                   const std::function<void(CaseResult& result)>& body) {
  CaseResult result;
  result.case_line = spec.line();
  result.id = case_id(result.case_line);
  try {
    body(result);
  } catch (const InputError&) {
    throw;
  } catch (const std::exception& error) {
    result.state = State::error;
    result.reason = error.what();
  }
  result.seconds = seconds_since(start);
  return result;
}

void conclude(CaseResult& result) {
  result.state = result.checks.empty() ? State::untrusted : State::pass;
  if (result.checks.empty()) result.reason = "no tensor matches --check and --tensor";
  for (const auto& check : result.checks)
    if (worse(check.state, result.state)) result.state = check.state;
}

CaseResult run_case(const CaseSpec& spec, const RunProducts& products) {
  if (spec.rollout_mesh) return run_rollout_case(spec, products);
  if (!products.rollout_dump.empty()) throw InputError("--dump-rollout: needs --rollout-mesh");
  if (spec.apart) {
    if (!products.dump.empty() || products.communication || products.weights)
      throw InputError("--apart: no --dump, --save-weights or --communication with it");
    return run_apart(spec);
  }
  const auto start = Clock::now();
  const auto scenario = load_scenario(spec);
  const int steps = steps_of(spec, *scenario);
  return conduct(spec, start, [&](CaseResult& result) {
    const Expected expected(scenario, spec, steps);
    const auto outputs = run_ranks(spec, *scenario);
    if (products.weights) {
      CaseSpec recorded = spec;
      recorded.checks = {"activations"};  // records weights as loaded, too
      *products.weights =
          final_weights(spec, *scenario, steps, steps > 0 ? outputs : run_ranks(recorded, *scenario));
    }
    if (products.communication) {
      const layout::LayoutMap map(scenario->config, spec.mesh, spec.flags, scenario->batch,
                                  scenario->placements);
      layout::ExpertRoutes routes;
      if (spec.mesh.ep > 1)
        routes = reference_routes(scenario->config, scenario->weights, scenario->batch, scenario->train,
                                  spec.mesh, spec.flags, spec.loss, steps);
      *products.communication = communication_table(
          layout::communication_plan(map, {steps, true, spec.loss, spec.loss_form, &routes}),
          logged_traffic(outputs));
    }
    result.checks = judge_case(spec, *scenario, expected, steps, outputs);
    result.seconds = seconds_since(start);
    if (!std::getenv(kNoCausesVariable))
      explain_case(
          spec, scenario, [&](const CaseSpec& again) { return run_ranks(again, *scenario); }, result);
    if (!products.dump.empty())
      write_dump(products.dump, spec, *scenario, gather_case(spec, *scenario, outputs));
    conclude(result);
  });
}

}  // namespace meshparity::cli

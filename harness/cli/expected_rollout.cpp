#include "harness/cli/expected_rollout.h"

#include "harness/cli/bounds.h"
#include "harness/cli/reference_routes.h"
#include "harness/cli/torch_bridge.h"
#include "harness/types/error.h"
#include "reference/rollout/rollout.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

// Replaces what follows from the logits by what follows from the golden's.
void take_golden(const Scenario& scenario, const CaseSpec& spec, const HostTensor& golden,
                 ExpectedRollout& expected) {
  const CheckResult result =
      judge_tensor(scenarios::load_tolerance(), rollout_context(spec, scenario), "logits",
                   expected.tensors.at("rollout/logits").view(), golden.view(), nullptr);
  if (result.state != State::pass)
    throw RunError("the reference's rollout disagrees with the logits of " + scenario.golden_file + ": " +
                   result.reason + "; it cannot stand in for what the golden lacks");
  expected.tensors["rollout/logits"] = golden;
  for (auto& [key, tensor] : sampled_hosts(golden, scenario.batch, spec.rollout))
    expected.tensors[key] = std::move(tensor);
  expected.from_golden = true;
}

}  // namespace

std::string ExpectedRollout::against(const std::string& key) const {
  return from_golden && key.rfind("rollout/routes/", 0) != 0 ? "golden" : "reference";
}

tolerance::Context rollout_context(const CaseSpec& spec, const Scenario& scenario) {
  tolerance::Context context = context_of(spec, scenario);
  context.temperature = spec.rollout.temperature;
  return context;
}

std::map<std::string, HostTensor> sampled_hosts(const HostTensor& logits, const Batch& batch,
                                                const RolloutSpec& spec) {
  std::map<std::string, HostTensor> hosts;
  for (const auto& [key, tensor] : reference::sampled(alias_of(logits), batch, spec))
    hosts.emplace(key, to_host(tensor));
  return hosts;
}

std::shared_ptr<const ExpectedRollout> expected_rollout(const std::shared_ptr<const Scenario>& scenario,
                                                        const CaseSpec& spec) {
  // The scenario is held so that no other can come to lie at its address.
  static std::shared_ptr<const Scenario> kept_scenario;
  static std::map<std::string, std::shared_ptr<const ExpectedRollout>> kept;
  if (kept_scenario != scenario) kept.clear(), kept_scenario = scenario;
  // A sequence is always alone to the reference: these two change nothing.
  RolloutSpec alone = spec.rollout;
  alone.batch = 0, alone.left_pad = false;
  const std::string key = alone.text() + " " + std::string(dtype_name(spec.dtype));
  if (const auto found = kept.find(key); found != kept.end()) return found->second;

  auto expected = std::make_shared<ExpectedRollout>();
  if (alone.replay)
    expected->replayed =
        chosen_experts(scenario->config, scenario->weights, scenario->batch, scenario->train);
  for (const auto& [name, tensor] :
       reference::rollout(scenario->config, scenario->weights, scenario->batch, alone, expected->replayed))
    expected->tensors.emplace(name, to_host(tensor));
  const auto golden = scenario->golden.find("logits");
  if (golden != scenario->golden.end()) take_golden(*scenario, spec, golden->second, *expected);
  return kept[key] = expected;
}

}  // namespace meshparity::cli

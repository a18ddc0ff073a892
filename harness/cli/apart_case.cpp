#include "harness/cli/apart_case.h"

#include <ATen/Parallel.h>

#include <thread>

#include "harness/cli/child.h"
#include "harness/cli/explain_case.h"
#include "harness/cli/judge_case.h"
#include "harness/cli/rank_inputs.h"
#include "harness/cli/reference_process.h"
#include "harness/cli/run_case.h"
#include "harness/types/error.h"

namespace meshparity::cli {
namespace {

// The largest of them counts; on the packaged models two draws agree to some percent (docs/tolerance.md).
constexpr int kApartDraws = 2;

void require_apart(const CaseSpec& spec) {
  const auto refuse = [](const std::string& option, const std::string& why) {
    throw InputError("--apart: " + option + " " + why);
  };
  if (spec.steps > 0) refuse("--steps", "must be 0: there is no memory for optimizer state");
  if (!spec.golden.empty()) refuse("--golden", "has no place: the live reference judges");
  if (spec.engine != "inprocess") refuse("--engine", "must be inprocess");
  if (spec.device != "cpu") refuse("--device", "must be cpu");
}

// Takes the time of one part and adds it, with this process's peak, to the costs.
template <class Work>
auto timed_part(CaseResult& result, const char* part, Work&& work) {
  const auto start = Clock::now();
  auto value = work();
  result.costs.push_back({part, seconds_since(start), peak_memory_bytes()});
  return value;
}

// Sums that threads split depend, where MKL cannot keep them (STRICT needs Intel's processors), on their
// number: models that gain nothing by threads are run by one, as everywhere else.
int reference_threads(const CaseSpec& spec) {
  constexpr std::int64_t kGainsByThreads = std::int64_t{16} << 20;
  std::int64_t elements = 0;
  for (const ParameterInfo& parameter : parameters_of(scenario_without_weights(spec)->config))
    elements += shape_numel(parameter.shape);
  if (elements < kGainsByThreads) return 1;
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

ReferenceRun reference_of(const CaseSpec& spec, CaseResult& result) {
  TemporaryFolder folder("meshparity-reference");
  ReferenceJob job;
  job.case_line = spec.line(), job.folder = folder.path(), job.draws = kApartDraws;
  job.threads = reference_threads(spec);
  ReferenceRun run = run_reference_process(job);
  folder.remove();
  result.costs = run.costs;
  return run;
}

std::vector<impl::RankOutput> ranks_of(const CaseSpec& spec, const Scenario& scenario,
                                       const MappedReference& stored) {
  impl::RankInputs inputs = rank_inputs(spec, scenario);
  inputs.weights = nullptr;
  inputs.weight_source = [&stored](const std::string& name) { return stored.weight(name); };
  // Activations are small beside weights; copies of the weights as loaded, which a trace also holds, are not.
  inputs.activations = true, inputs.trace = false;
  return run_threads(inputs, seams_of(spec), in_process_options(spec));
}

void judge_apart(const CaseSpec& spec, const std::shared_ptr<const Scenario>& scenario,
                 const MappedReference& stored, CaseResult& result) {
  const auto outputs =
      timed_part(result, "ranks: forward and backward", [&] { return ranks_of(spec, *scenario, stored); });
  const Expected expected(scenario, spec, stored.expected());
  result.checks =
      timed_part(result, "judge", [&] { return judge_case(spec, *scenario, expected, 0, outputs); });
  explain_outputs(spec, *scenario, expected, outputs, result);
  conclude(result);
}

}  // namespace

CaseResult run_apart(const CaseSpec& spec) {
  require_apart(spec);
  return conduct(spec, Clock::now(), [&](CaseResult& result) {
    const auto scenario = scenario_without_weights(spec);
    const ReferenceRun reference = reference_of(spec, result);
    // Two runs in this dtype are compared, the golden of a float64 row is no side of it.
    scenario->conditions = reference.conditions, scenario->rounded_sides = 2;
    judge_apart(spec, scenario, *reference.results, result);
  });
}

}  // namespace meshparity::cli

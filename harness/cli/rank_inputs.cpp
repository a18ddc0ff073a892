// One definition of what the ranks of a case get and how they run.
#include "harness/cli/rank_inputs.h"

#include <algorithm>
#include <cstdlib>

#include "harness/cli/rank_process.h"
#include "harness/cli/torch_bridge.h"
#include "harness/types/error.h"
#include "scenarios/faults/fault.h"
#include "scenarios/policies/precision.h"

namespace meshparity::cli {
namespace {

// NCCL moves device memory only; Gloo here moves host memory only.
bool on_cuda(const CaseSpec& spec) {
  return spec.device == "cuda" || spec.engine == "nccl";
}

// Throws InputError if this build or machine cannot run the case where it is to run.
void require_device(const CaseSpec& spec) {
  if (!on_cuda(spec)) return;
  if (spec.engine == "gloo") throw InputError("--device cuda: the engines for it are inprocess and nccl");
  if (!at::globalContext().hasCUDA())
    throw InputError("no CUDA here: this build (--preset cuda has it) or this machine sees no device");
}

// Replicas are judged bitwise, so the same sums must come out of the same inputs on every rank.
void make_cuda_repeatable() {
  static const bool once = [] {
    ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
    at::globalContext().setDeterministicAlgorithms(true, false);
    return true;
  }();
  (void)once;
}

}  // namespace

impl::RankInputs rank_inputs(const CaseSpec& spec, const Scenario& scenario) {
  impl::RankInputs inputs;
  inputs.config = scenario.config, inputs.mesh = spec.mesh, inputs.flags = spec.flags;
  inputs.batch = scenario.batch, inputs.train = scenario.train;
  inputs.loss = spec.loss, inputs.loss_form = spec.loss_form, inputs.steps = steps_of(spec, scenario);
  inputs.gradients = !spec.rollout_mesh;
  inputs.trace = std::find(spec.checks.begin(), spec.checks.end(), "activations") != spec.checks.end();
  // With sp the residual stream is what the axis cuts: the placement check reads its local shapes.
  inputs.activations = spec.flags.sp || inputs.trace;
  inputs.dtype = scalar_type_of(spec.dtype);
  inputs.ordered_reductions = spec.reduce == "ordered";
  inputs.weights = &scenario.weights;
  if (on_cuda(spec)) inputs.device = at::kCUDA, make_cuda_repeatable();
  return inputs;
}

impl::InProcessOptions in_process_options(const CaseSpec& spec) {
  impl::InProcessOptions options;
  if (spec.reduce == "permuted") options.permute_seed = static_cast<std::uint64_t>(spec.seed) + 1;
  return options;
}

impl::Seams seams_of(const CaseSpec& spec) {
  impl::Seams seams;
  if (!spec.fault.empty()) faults::find(spec.fault).plant(seams);
  return seams;
}

impl::Seams seams_of(const CaseSpec& spec, const PrecisionPolicy& policy) {
  impl::Seams seams = seams_of(spec);
  policies::plant(policy, seams);
  return seams;
}

std::vector<impl::RankOutput> run_threads(const impl::RankInputs& inputs, const impl::Seams& seams,
                                          const impl::InProcessOptions& options) {
  const int world = inputs.mesh.world();
  std::vector<impl::RankOutput> outputs(static_cast<std::size_t>(world));
  impl::run_in_process(world, options, [&](impl::Engine& engine) {
    outputs[static_cast<std::size_t>(engine.rank())] = impl::run_rank(inputs, engine, seams);
  });
  return outputs;
}

std::vector<impl::RankOutput> run_threads(const impl::RolloutInputs& inputs, const impl::Seams& seams,
                                          const impl::InProcessOptions& options) {
  const int world = std::max(inputs.train.mesh.world(), inputs.mesh.world());
  std::vector<impl::RankOutput> outputs(static_cast<std::size_t>(world));
  impl::run_in_process(world, options, [&](impl::Engine& engine) {
    outputs[static_cast<std::size_t>(engine.rank())] = impl::run_rollout(inputs, engine, seams);
  });
  return outputs;
}

std::vector<impl::RankOutput> run_ranks(const CaseSpec& spec, const Scenario& scenario) {
  require_device(spec);
  if (spec.engine != "inprocess") return run_spawned(spec, kSpawnTimeoutSeconds);
  return run_threads(rank_inputs(spec, scenario), seams_of(spec), in_process_options(spec));
}

}  // namespace meshparity::cli

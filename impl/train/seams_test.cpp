// A seam reaches what it names: a decorator changes what it should and the rest of the run is as before.
#include "impl/seams.h"

#include <cmath>
#include <mutex>

#include "impl/blocks/context_tables.h"
#include "impl/blocks/primitives.h"
#include "impl/parallel/data.h"
#include "impl/parallel/pipeline.h"
#include "impl/train/loss.h"
#include "impl/train/optimizer.h"
#include "impl/train/program_fixture.h"

namespace meshparity::impl {

using namespace program_testing;

TEST_CASE("seams reach what they name") {
  Run run;
  run.steps = 0;
  std::mutex lock;
  int seen = 0;
  run.seams.plan = [&](Plan& plan, const Mesh&) { plan.row("model.norm.weight").counts_in_norm = true; };
  run.seams.primitives = [&](Primitives& p) {
    p.rms_norm = [&, inner = p.rms_norm](const at::Tensor& x, const at::Tensor& w, double eps) {
      const std::lock_guard guard(lock);
      ++seen;
      return inner(x, w, eps);
    };
  };
  const Records got = by_key(run.on("tp2", false)[0]);
  CHECK(seen == 2 * 3 * 7);
  run.seams = {};
  CHECK(got.at("grad_norm").item<double>() > by_key(run.on("tp2", false)[0]).at("grad_norm").item<double>());
}

TEST_CASE("seams of packing, schedule, recomputation, routes and gradient sums reach what they name") {
  Run run;
  run.config = moe_config(), run.config.num_experts = 6;
  run.steps = 1, run.flags.recompute = true;
  std::mutex lock;
  int packings = 0, actions = 0, layers = 0, routes = 0, groups = 0;
  const auto count = [&lock](int& n) {
    const std::lock_guard guard(lock);
    ++n;
  };
  run.seams.packing = [&](PackingEdit& edit) {
    count(packings);
    // The same positions again: nothing may change.
    edit.packed = with_positions(edit.packed, edit.tokens.positions, edit.config);
  };
  run.seams.pipeline = [&](PipelineRunner& runner) {
    runner.run = [&, inner = runner.run](const PipelineAction& action) {
      count(actions);
      inner(action);
    };
  };
  run.seams.gradient_groups = [&](GradientGroups&) { count(groups); };
  run.seams.primitives = [&](Primitives& p) {
    p.recomputed = [&, inner = p.recomputed](const at::Tensor& x,
                                             const std::function<at::Tensor(const at::Tensor&)>& first,
                                             std::function<at::Tensor(const at::Tensor&)> again) {
      count(layers);
      return inner(x, first, again);
    };
    p.expert_routes = [&, inner = p.expert_routes](const ExpertParallel& ep, const at::Tensor& experts,
                                                   std::int64_t expert_count, const Site& site) {
      count(routes);
      return inner(ep, experts, expert_count, site);
    };
  };
  check_same(run, "pp2.uly2.ep2", false);
  // check_same runs one rank as well, which has no pipeline groups: four ranks and one, three micro-batches.
  CHECK(packings == 5 * 3);
  CHECK(groups == 5);
  CHECK(actions == 5 * 3 * 2);
  CHECK(layers == 2 * 3 * 3);   // three layers over two stages, on two ranks each
  CHECK(routes == 2 * layers);  // and once more in backward
}

TEST_CASE("a float32 gradient norm counts the many small elements beside a few large ones") {
  Run run;
  run.config.vocab_size = std::int64_t{1} << 20;
  const Weights weights = random_weights(run.config);
  RankInputs in;
  in.config = run.config, in.batch = run.batch, in.weights = &weights, in.dtype = at::kFloat;
  constexpr double kLarge = 3e3, kLargeOnes = 256;
  double elements = 0;
  run.seams.optimizer = [&](Optimizer& optimizer) {
    optimizer.gradient_norm = [&elements, right = optimizer.gradient_norm,
                               parameters = optimizer.parameters] {
      at::Tensor gradients = parameters->gradients();
      elements = static_cast<double>(gradients.numel());
      gradients.fill_(1), gradients.slice(0, 0, static_cast<std::int64_t>(kLargeOnes)).fill_(kLarge);
      return right();
    };
  };
  std::vector<RankOutput> out(1);
  run_in_process(1, {}, [&](Engine& engine) { out[0] = run_rank(in, engine, run.seams); });
  const double want = std::sqrt(kLargeOnes * kLarge * kLarge + (elements - kLargeOnes));
  CHECK(elements > 1e7);
  CHECK(by_key(out[0]).at("grad_norm").item<double>() == Approx(want).epsilon(1e-9));
}

}  // namespace meshparity::impl

#include "harness/cli/bench_step.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <map>

#include "harness/cli/clock.h"
#include "harness/cli/torch_bridge.h"
#include "impl/train/program.h"
#include "scenarios/initial_weights.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

using Weights = std::map<std::string, at::Tensor>;

// One document of `length` tokens, every one but the last with a label.
Batch one_document(std::int64_t length, std::int64_t vocab_size) {
  Batch batch;
  batch.name = "bench-step";
  for (std::int64_t i = 0; i < length; ++i) batch.token_ids.push_back((i * i + 7 * i) % vocab_size);
  batch.labels.assign(batch.token_ids.begin() + 1, batch.token_ids.end());
  batch.labels.push_back(kIgnoreLabel);
  batch.document_offsets = {0, length};
  batch.row_offsets = batch.micro_batch_offsets = {0, 1};
  return batch;
}

double thread_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Cost {
  double wall = 0;                // seconds
  double total = 0, busiest = 0;  // processor seconds of all ranks, of the one with most
  std::int64_t elements = 0;      // that left the rank which sent most
};

Cost run_once(const impl::RankInputs& inputs) {
  const int world = inputs.mesh.world();
  std::vector<double> seconds(world);
  std::vector<std::int64_t> sent(world);
  const auto start = Clock::now();
  impl::run_in_process(world, {}, [&](impl::Engine& engine) {
    const double before = thread_seconds();
    const auto output = impl::run_rank(inputs, engine, {});
    seconds[engine.rank()] = thread_seconds() - before;
    for (const auto& event : output.communication) sent[engine.rank()] += event.elements_sent;
  });
  Cost cost;
  cost.wall = seconds_since(start);
  for (int r = 0; r < world; ++r) {
    cost.total += seconds[r], cost.busiest = std::max(cost.busiest, seconds[r]);
    cost.elements = std::max(cost.elements, sent[r]);
  }
  return cost;
}

Cost fastest(const impl::RankInputs& inputs, int repeats) {
  Cost best = run_once(inputs);
  for (int i = 1; i < repeats; ++i) {
    const Cost next = run_once(inputs);
    if (next.total < best.total) best = next;
  }
  return best;
}

// The context ranks as a ring; hybrid needs both axes.
Mesh mesh_of(const std::string& gdn, int ranks) {
  Mesh mesh;
  mesh.uly = gdn == "hybrid" && ranks % 2 == 0 ? 2 : 1;
  mesh.ring = ranks / mesh.uly;
  return mesh;
}

}  // namespace

void bench_step(const StepBench& bench) {
  const ModelConfig config = scenarios::load_model(bench.model);
  const auto host = scenarios::initial_weights(config, 7);
  Weights weights;
  for (const auto& [name, tensor] : host) weights.emplace(name, alias_of(tensor));
  impl::RankInputs inputs;
  inputs.config = config, inputs.weights = &weights;

  std::printf("%s: forward and backward of one document in float64, ranks are threads\n",
              bench.model.c_str());
  std::printf("%-7s %-12s %7s %9s %16s %16s %14s\n", "gdn", "mesh", "tokens", "wall ms", "all ranks' work",
              "busiest's work", "elements sent");
  for (const std::int64_t length : bench.lengths) {
    inputs.batch = one_document(length, config.vocab_size);
    inputs.mesh = Mesh{}, inputs.flags = Flags{};
    const Cost alone = fastest(inputs, bench.repeats);
    std::printf("%-7s %-12s %7lld %9.1f %15.2fx %15.2fx %14d\n", "-", "dp1", static_cast<long long>(length),
                1000 * alone.wall, 1.0, 1.0, 0);
    for (const char* gdn : {"state", "heads", "hybrid", "gather"})
      for (const int ranks : bench.ranks) {
        inputs.mesh = mesh_of(gdn, ranks), inputs.flags.gdn = gdn;
        if (const std::string why = refusal(inputs.mesh, inputs.flags, config); !why.empty()) {
          std::printf("%-7s %s\n", gdn, why.c_str());
          continue;
        }
        const Cost cost = fastest(inputs, bench.repeats);
        std::printf("%-7s %-12s %7lld %9.1f %15.2fx %15.2fx %14lld\n", gdn, inputs.mesh.text().c_str(),
                    static_cast<long long>(length), 1000 * cost.wall, cost.total / alone.total,
                    cost.busiest / alone.busiest, static_cast<long long>(cost.elements));
        std::fflush(stdout);
      }
  }
}

}  // namespace meshparity::cli

// meshparity bench: measurements, each beside its yardstick in the same run. Ratios are what
// docs/performance.md quotes.
#include <cstdio>
#include <iostream>

#include "harness/cli/bench_drift.h"
#include "harness/cli/bench_reference.h"
#include "harness/cli/bench_step.h"
#include "harness/cli/bench_trainer.h"
#include "harness/cli/case_arguments.h"
#include "harness/cli/clock.h"
#include "harness/cli/sweep.h"
#include "harness/cli/verbs.h"
#include "harness/compare/compare.h"
#include "impl/comm/bench.h"

namespace meshparity::cli {
namespace {

// Small, with heads enough for gdn=heads on 8 ranks.
constexpr char kStepModel[] =
    "shape:layers=ggga:hidden=64:heads=8/8:head_dim=24:gdn=8/16:key=8:value=8:ffn=40:vocab=61";

int bench_sweep(const std::string& cases, int jobs) {
  const auto expansion = expand_case_file(cases);
  SweepOptions options;
  options.jobs = jobs;
  const auto start = Clock::now();
  const auto results = sweep(expansion.cases, options, [](const CaseResult&) {});
  const double seconds = seconds_since(start);
  double busy = 0;
  std::size_t passed = 0;
  for (const auto& result : results) busy += result.seconds, passed += result.state == State::pass;
  std::printf(
      "%zu cases of %s in %.1f s: %.2f meshes per second, %.0f ms per case in its worker, %zu passed\n",
      results.size(), cases.c_str(), seconds, static_cast<double>(results.size()) / seconds,
      1000 * busy / static_cast<double>(results.size()), passed);
  return passed == results.size() ? 0 : 1;
}

int bench_collectives() {
  std::printf("%6s %10s %14s %14s %9s\n", "ranks", "bytes", "in-process us", "gloo us", "ratio");
  for (int ranks : {2, 4, 8})
    for (std::int64_t bytes : {std::int64_t{1} << 10, std::int64_t{16} << 10, std::int64_t{256} << 10}) {
      const auto timing = impl::time_collectives(ranks, bytes, 200);
      std::printf("%6d %10lld %14.1f %14.1f %8.0fx\n", ranks, static_cast<long long>(bytes),
                  timing.in_process_us, timing.gloo_us, timing.gloo_us / timing.in_process_us);
    }
  return 0;
}

int bench_compare(std::int64_t mebibytes) {
  const auto bandwidth = compare::compare_bandwidth(static_cast<std::size_t>(mebibytes) << 20);
  std::printf("comparer %.2f GB/s, plain read of the same bytes %.2f GB/s, ratio %.2f (%lld MiB float64)\n",
              bandwidth.measure_gb_s, bandwidth.read_gb_s, bandwidth.measure_gb_s / bandwidth.read_gb_s,
              static_cast<long long>(mebibytes));
  return 0;
}

}  // namespace

void add_bench(CLI::App& app, Chosen& chosen) {
  struct Options {
    std::string cases = "basic";
    int jobs = 0;
    std::int64_t mebibytes = 256;
    StepBench step{kStepModel, {2, 4, 8}, {128, 512, 2048}};
    TrainerBench trainer;
    ReferenceBench reference;
    DriftBench drift;
  };
  auto options = std::make_shared<Options>();
  auto* bench = app.add_subcommand(
      "bench", "Measure: sweep | compare | collectives | step | trainer | reference | drift");
  bench->require_subcommand(1);
  auto* sweep_verb = bench->add_subcommand("sweep", "Meshes per second of a case file");
  sweep_verb->add_option("--cases", options->cases, "file of case lines, or its name in scenarios/");
  sweep_verb->add_option("--jobs", options->jobs, "worker processes");
  sweep_verb->callback(
      [options, &chosen] { chosen.run = [o = options] { return bench_sweep(o->cases, o->jobs); }; });
  bench->add_subcommand("collectives", "All-reduce of the in-process engine beside c10d Gloo")
      ->callback([&chosen] { chosen.run = [] { return bench_collectives(); }; });
  auto* step_verb =
      bench->add_subcommand("step", "Cost of a step by ranks and length, for each way to run GatedDeltaNet");
  step_verb->add_option("--model", options->step.model, "as for run");
  step_verb->add_option("--ranks", options->step.ranks, "context ranks")
      ->check(CLI::Range(2, 64))
      ->delimiter(',');
  step_verb->add_option("--lengths", options->step.lengths, "tokens of the document")
      ->check(CLI::Range(1, 65536))
      ->delimiter(',');
  step_verb->add_option("--repeats", options->step.repeats, "runs of each, the fastest counts")
      ->check(CLI::Range(1, 1000));
  step_verb->callback([options, &chosen] {
    chosen.run = [o = options->step] {
      bench_step(o);
      return 0;
    };
  });
  auto* trainer_verb =
      bench->add_subcommand("trainer", "The sweep beside torchrun with Hugging Face transformers and FSDP2");
  trainer_verb->add_option("--ranks", options->trainer.ranks, "of every mesh")->check(CLI::Range(2, 16));
  trainer_verb->add_option("--repeats", options->trainer.repeats, "torchrun jobs, the fastest counts")
      ->check(CLI::Range(1, 100));
  trainer_verb->add_option("--jobs", options->trainer.jobs, "worker processes of the sweep");
  trainer_verb->callback(
      [options, &chosen] { chosen.run = [o = options->trainer] { return bench_trainer(o); }; });
  auto* reference_verb = bench->add_subcommand(
      "reference", "Forward and backward of the reference beside Hugging Face transformers' eager model");
  reference_verb->add_option("--model", options->reference.model, "as for run");
  reference_verb->add_option("--tokens", options->reference.tokens, "of the one document")
      ->check(CLI::Range(2, 65536));
  reference_verb->add_option("--threads", options->reference.threads, "of each side (default: one per core)")
      ->check(CLI::Range(1, 1024));
  reference_verb->add_option("--repeats", options->reference.repeats, "runs of each, the fastest counts")
      ->check(CLI::Range(2, 100));
  reference_verb->callback(
      [options, &chosen] { chosen.run = [o = options->reference] { return bench_reference(o); }; });
  auto* drift_verb = bench->add_subcommand(
      "drift", "How many faults `drift` names right in dumps of our own faulty and sound runs");
  drift_verb->add_option("--seed", options->drift.seed, "of the first pair")->check(CLI::Range(0, 1 << 30));
  drift_verb->add_option("--faulty", options->drift.faulty, "pairs with a fault")
      ->check(CLI::Range(0, 10000));
  drift_verb->add_option("--benign", options->drift.benign, "pairs without")->check(CLI::Range(0, 10000));
  drift_verb->add_option("--kind", options->drift.kind, "this kind of pair alone");
  drift_verb->add_flag("--show", options->drift.show, "the whole report of every pair that is judged wrong");
  drift_verb->callback([options, &chosen] { chosen.run = [o = options->drift] { return bench_drift(o); }; });
  auto* compare_verb = bench->add_subcommand("compare", "GB/s of the comparer beside a plain memory read");
  compare_verb->add_option("--mib", options->mebibytes, "size of each side")->check(CLI::Range(1, 8192));
  compare_verb->callback(
      [options, &chosen] { chosen.run = [o = options] { return bench_compare(o->mebibytes); }; });
}

}  // namespace meshparity::cli

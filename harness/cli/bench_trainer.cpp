#include "harness/cli/bench_trainer.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <limits>

#include "harness/cli/case_arguments.h"
#include "harness/cli/child.h"
#include "harness/cli/clock.h"
#include "harness/cli/sweep.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

namespace fs = std::filesystem;

// Seconds of the fastest torchrun job, its dump judged.
double time_torchrun(const TrainerBench& bench, const std::string& python) {
  const std::string judge = fs::read_symlink("/proc/self/exe").parent_path() / "meshparity-judge";
  const std::string golden = scenarios::scenarios_dir().parent_path() / "golden/data/tiny-dense.rows.h5";
  const TemporaryFolder temporary("meshparity-trainer");
  const fs::path folder = temporary.path();
  if (run_child({judge, "export", "--golden", golden, "--to", folder.string(), "--force"}))
    throw RunError("export failed (its message is above)");
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < bench.repeats; ++i) {
    const auto start = Clock::now();
    if (run_child({python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                   std::to_string(bench.ranks), "check.py", "--fsdp"},
                  folder.string()))
      throw RunError("torchrun check.py --fsdp failed (its message is above)");
    best = std::min(best, seconds_since(start));
  }
  if (run_child({judge, "compare", "--golden", golden, (folder / "dump.h5").string()}))
    throw RunError("what torchrun computed is not what the golden says: its time counts for nothing");
  return best;
}

}  // namespace

int bench_trainer(const TrainerBench& bench) {
  const double theirs = time_torchrun(bench, upstream_python("bench trainer"));

  run::CaseOptions options;
  options.model = {"tiny-dense", "tiny-moe"};
  options.batch = {"rows"};
  options.mesh = {"world=" + std::to_string(bench.ranks)};
  const auto expansion = expand_cases(options);
  SweepOptions how;
  how.jobs = bench.jobs;
  const auto start = Clock::now();
  const auto results = sweep(expansion.cases, how, [](const CaseResult&) {});
  const double ours = seconds_since(start) / static_cast<double>(results.size());
  const auto passed = std::count_if(results.begin(), results.end(),
                                    [](const CaseResult& result) { return result.state == State::pass; });

  std::printf(
      "torchrun, transformers and FSDP2 on %d Gloo processes: 1 mesh in %.1f s, %.1f meshes per minute\n",
      bench.ranks, theirs, 60 / theirs);
  std::printf(
      "meshparity gate --mesh world=%d --batch rows: %zu cases in %.1f s, %.0f meshes per minute, %td "
      "passed\n",
      bench.ranks, results.size(), ours * static_cast<double>(results.size()), 60 / ours, passed);
  std::printf("ratio %.0fx\n", theirs / ours);
  return passed == static_cast<std::ptrdiff_t>(results.size()) ? 0 : 1;
}

}  // namespace meshparity::cli

#include "harness/cli/bench_reference.h"

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "harness/cli/bounds.h"
#include "harness/cli/child.h"
#include "harness/cli/reference_process.h"
#include "harness/cli/scenario.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

struct Side {
  double forward = 0, step = 0;  // seconds
  std::int64_t peak_bytes = 0;
  double loss = 0;
};

void print_side(const char* name, const Side& side) {
  std::printf("%-26s forward %7.2f s   forward and backward %7.2f s   peak %5.2f GiB   loss %.6f\n", name,
              side.forward, side.step, static_cast<double>(side.peak_bytes) / (std::int64_t{1} << 30),
              side.loss);
  std::fflush(stdout);
}

Side reference_side(const ReferenceJob& job) {
  const ReferenceRun run = run_reference_process(job);
  Side side;
  for (const auto& cost : run.costs) {
    if (cost.part == "reference: forward") side.forward = cost.seconds;
    if (cost.part == "reference: forward and backward")
      side.step = cost.seconds, side.peak_bytes = cost.peak_bytes;
  }
  side.loss = run.loss;
  return side;
}

// With the settings of its own, not those that make our results repeatable.
Side eager_side(const std::string& python, const std::string& folder, int threads, int repeats) {
  const std::string result = folder + "/eager.json", count = std::to_string(threads);
  if (run_child({"env", "-u", "MKL_CBWR", "OMP_NUM_THREADS=" + count, "MKL_NUM_THREADS=" + count, python,
                 "-m", "golden.upstream.eager_step", folder + "/reference.h5", result, "--threads", count,
                 "--repeats", std::to_string(repeats)},
                scenarios::scenarios_dir().parent_path()))
    throw RunError("golden.upstream.eager_step failed (its message is above)");
  std::ifstream in(result);
  const auto parsed = nlohmann::json::parse(in);
  return {parsed.at("forward"), parsed.at("step"), parsed.at("peak_bytes"), parsed.at("loss")};
}

// Two float32 runs of the same model by independent code.
CheckResult same_loss(const CaseSpec& spec, double got, double want) {
  const auto scenario = scenario_without_weights(spec);
  tolerance::Context context = context_of(spec, *scenario);
  context.rounded_sides = 2;
  return judge_tensor(scenarios::load_tolerance(), context, "loss/token_mean", HostTensor::scalar(got).view(),
                      HostTensor::scalar(want).view(), nullptr);
}

}  // namespace

int bench_reference(const ReferenceBench& bench) {
  const std::string python = upstream_python("bench reference");
  CaseSpec spec;
  spec.model = bench.model, spec.batch = "tokens:" + std::to_string(bench.tokens);
  spec.dtype = DType::float32, spec.apart = true;
  const TemporaryFolder folder("meshparity-reference");
  ReferenceJob job;
  job.case_line = spec.line(), job.folder = folder.path(), job.repeats = bench.repeats;
  job.keep_results = false;
  job.threads =
      bench.threads ? bench.threads : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  std::printf("%s, one document of %d tokens, float32, %d threads, fastest of %d\n", bench.model.c_str(),
              bench.tokens, job.threads, bench.repeats);
  const Side ours = reference_side(job);
  print_side("reference", ours);
  const Side theirs = eager_side(python, folder.path(), job.threads, bench.repeats);
  print_side("Hugging Face, eager", theirs);
  std::printf("ratio %.2f forward, %.2f forward and backward\n", ours.forward / theirs.forward,
              ours.step / theirs.step);
  const CheckResult loss = same_loss(spec, ours.loss, theirs.loss);
  if (loss.state == State::pass) return 0;
  std::printf("the two compute different things: loss %.9g and %.9g; %s\n", ours.loss, theirs.loss,
              loss.reason.c_str());
  return 1;
}

}  // namespace meshparity::cli

// The side of reference_process.h that computes. Order of the work: weights drawn and written, results
// computed and written, and only then, in the memory that results gave back, the perturbed runs.
#include "harness/cli/reference_process.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "golden/checkpoint.h"
#include "golden/hdf5_stream.h"
#include "harness/cli/bounds.h"
#include "harness/cli/case_arguments.h"
#include "harness/cli/child.h"
#include "harness/cli/clock.h"
#include "harness/cli/condition.h"
#include "harness/cli/scenario.h"
#include "harness/cli/torch_bridge.h"
#include "harness/compare/compare.h"
#include "harness/run/interruption.h"
#include "harness/run/scheduler.h"
#include "harness/types/error.h"
#include "harness/types/loss_sum.h"
#include "harness/types/model_shape.h"
#include "scenarios/initial_weights.h"

namespace meshparity::cli {
namespace {

using nlohmann::json;

class ReferenceProcess {
 public:
  explicit ReferenceProcess(const ReferenceJob& job)
      : job_(job),
        spec_(single_case(job.case_line)),
        scenario_(scenario_without_weights(spec_)),
        file_(job.folder + "/reference.h5") {}

  void run() {
    file_.text("config", scenario_->config.json);
    put("inputs/token_ids", at::tensor(scenario_->batch.token_ids, at::kLong));
    put("inputs/labels", at::tensor(scenario_->batch.labels, at::kLong));
    timed("weights drawn", [&] { make_weights(); });
    reference::TensorMap results = compute_timed();
    index_["loss"] = loss_of(results);
    const double loss_size = parse_loss(spec_.loss).size([&](const std::string& term) {
      return results.at("loss/" + term).item<double>();
    });
    backward_size_ = std::max(results.at("grad_norm").item<double>(), loss_size);
    if (job_.keep_results)
      timed("results written", [&] {
        for (const auto& [key, value] : results) put("expected/" + key, value);
      });
    results.clear();
    file_.close();
    if (job_.draws > 0) timed("conditions", [&] { measure_conditions(); });
    index_["costs"] = costs_;
    std::ofstream out(job_.folder + "/index.json");
    out << index_.dump() << std::flush;
    if (!out) throw RunError(job_.folder + "/index.json: cannot be written");
  }

 private:
  template <class Work>
  double timed(const char* part, Work&& work) {
    const auto start = Clock::now();
    work();
    const double seconds = seconds_since(start);
    if (*part) note(part, seconds);
    return seconds;
  }

  void note(const std::string& part, double seconds) {
    costs_.push_back(
        {{"part", "reference: " + part}, {"seconds", seconds}, {"peak_bytes", peak_memory_bytes()}});
  }

  void put(const std::string& path, const at::Tensor& value) {
    const at::Tensor whole = value.detach().contiguous();
    const golden::StoredPlace place = file_.tensor(path, view_of(whole));
    index_["tensors"].push_back({{"path", place.path},
                                 {"dtype", dtype_name(place.dtype)},
                                 {"shape", place.shape},
                                 {"offset", place.offset}});
  }

  // One by one, so that no more than one weight is there in float64 as well.
  void make_weights() {
    std::map<std::string, HostTensor> loaded;
    if (has_checkpoint(spec_))
      loaded = golden::load_checkpoint(std::string(without_text_prefix(spec_.model)), scenario_->config);
    for (const auto& parameter : parameters_of(scenario_->config)) {
      const HostTensor host =
          loaded.empty() ? scenarios::initial_weight(scenario_->config, parameter, weight_seed(spec_))
                         : std::move(loaded.at(parameter.name));
      weights_[parameter.name] = alias_of(host).to(scalar_type_of(spec_.dtype), false, /*copy=*/true);
      put("weights/" + parameter.name, weights_[parameter.name]);
    }
  }

  reference::TensorMap compute(bool gradients) const {
    reference::RunOptions options;
    options.loss = spec_.loss, options.gradients = gradients, options.activations = job_.keep_results;
    return reference::run(scenario_->config, weights_, scenario_->batch, scenario_->train, options);
  }

  // The fastest of the repeats; forward alone is timed only where there are several.
  reference::TensorMap compute_timed() {
    reference::TensorMap results;
    double forward = std::numeric_limits<double>::infinity(), step = forward;
    for (int i = 0; i < job_.repeats; ++i) {
      results.clear();
      if (job_.repeats > 1) forward = std::min(forward, timed("", [&] { compute(false); }));
      step = std::min(step, timed("", [&] { results = compute(true); }));
    }
    if (job_.repeats > 1) note("forward", forward);
    note("forward and backward", step);
    return results;
  }

  double loss_of(const reference::TensorMap& results) const {
    double sum = 0;
    for (const auto& term : parse_loss(spec_.loss).terms)
      sum += term.weight * results.at("loss/" + term.name).item<double>();
    return sum;
  }

  // Every weight times 1 + size * r; what it was stands in the file.
  void perturb(const MappedReference& base, int draw, double size) {
    for (auto& [name, weight] : weights_) {
      const Generator generator = perturbation_generator(static_cast<std::uint64_t>(draw), name);
      const at::Tensor from = base.weight(name);
      at::Tensor& to = weight;
      AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "perturb", [&] {
        const scalar_t* in = from.const_data_ptr<scalar_t>();
        scalar_t* out = to.mutable_data_ptr<scalar_t>();
        for (std::int64_t i = 0; i < to.numel(); ++i)
          out[i] = static_cast<scalar_t>(in[i] * perturbed_factor(generator, i, size));
      });
    }
  }

  // The largest relative change per relative change of the weights, by check (condition.h).
  void measure_conditions() {
    const MappedReference base(job_.folder + "/reference.h5", index_.dump());
    const double size = perturbation_of(spec_.dtype);
    std::map<std::string, double> conditions;
    for (int draw = 1; draw <= job_.draws; ++draw) {
      perturb(base, draw, size);
      for (const auto& [key, value] : compute(true)) {
        if (key.rfind("denominators/", 0) == 0) continue;
        const at::Tensor whole = value.detach().contiguous();
        const compare::Metrics change = compare::measure(view_of(whole), base.expected().at(key));
        const std::string check = name_of(key).check;
        const double scale = condition_scale(check, change.want_norm, change.elements, backward_size_);
        if (scale == 0) continue;
        if (!change.comparable || change.got_nonfinite || change.want_nonfinite)
          throw RunError(key + " is not finite: the reference cannot judge this case");
        // At least 1: the last operation rounds the quantity itself.
        double& condition = conditions.try_emplace(check, 1.0).first->second;
        condition = std::max(condition, kOutputsToo * change.diff_norm / scale / size);
      }
    }
    index_["conditions"] = conditions;
  }

  const ReferenceJob& job_;
  CaseSpec spec_;
  std::shared_ptr<Scenario> scenario_;
  golden::StreamWriter file_;
  reference::TensorMap weights_;
  json index_ = {{"tensors", json::array()}};
  json costs_ = json::array();
  double backward_size_ = 0;  // condition_scale
};

std::string text_of(const std::string& file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

ReferenceRun run_reference_process(ReferenceJob job) {
  const std::string errors = job.folder + "/stderr";
  std::vector<std::string> argv = {std::filesystem::read_symlink("/proc/self/exe").string(),
                                   "reference",
                                   "--case",
                                   job.case_line,
                                   "--to",
                                   job.folder,
                                   "--threads",
                                   std::to_string(job.threads),
                                   "--draws",
                                   std::to_string(job.draws),
                                   "--repeats",
                                   std::to_string(job.repeats),
                                   "--parent",
                                   std::to_string(::getpid())};
  if (!job.keep_results) argv.emplace_back("--loss-only");
  {
    const run::Interruption interruption;
    Processes processes;
    processes.start(argv, errors);
    if (processes.wait(0, "reference runs") != -1) throw RunError("the reference failed: " + tail_of(errors));
  }
  const std::string index = text_of(job.folder + "/index.json");
  const json parsed = json::parse(index);
  ReferenceRun run;
  run.results = std::make_unique<MappedReference>(job.folder + "/reference.h5", index);
  if (parsed.contains("conditions"))
    run.conditions = parsed["conditions"].get<std::map<std::string, double>>();
  for (const auto& cost : parsed.at("costs"))
    run.costs.push_back({cost.at("part"), cost.at("seconds"), cost.at("peak_bytes")});
  run.loss = parsed.at("loss");
  return run;
}

int reference_main(const ReferenceJob& job) {
  run::die_with_parent(job.parent);
  at::set_num_threads(job.threads);
  ReferenceProcess(job).run();
  return 0;
}

}  // namespace meshparity::cli

// One case under two dtype policies, and what each choice between them costs.
#include "harness/cli/model_drift.h"

#include <cmath>

#include "harness/cli/expected_rollout.h"
#include "harness/cli/judge_case.h"
#include "harness/cli/judge_rollout.h"
#include "harness/cli/rank_inputs.h"
#include "harness/cli/run_case.h"
#include "harness/types/error.h"

namespace meshparity::cli {
namespace {

double mean_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::fabs(a[i] - b[i]);
  return sum / static_cast<double>(a.size());
}

// In the order in which a forward pass computes them.
std::vector<std::string> block_keys(const ModelConfig& config) {
  std::vector<std::string> keys = {"activations/embed"};
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i)
    for (const char* part : {".mixer", ".ffn"})
      keys.push_back("activations/layers." + std::to_string(i) + part);
  keys.push_back("activations/norm");
  return keys;
}

double relative_difference(const TensorView& a, const TensorView& b) {
  double difference = 0, size = 0;
  for (std::int64_t i = 0, n = a.numel(); i < n; ++i) {
    difference += (a.at(i) - b.at(i)) * (a.at(i) - b.at(i));
    size += b.at(i) * b.at(i);
  }
  return size > 0 ? std::sqrt(difference / size) : 0;
}

}  // namespace

PolicyRuns::PolicyRuns(const CaseSpec& spec) : spec_(spec), scenario_(load_scenario(spec)) {
  if (spec.dtype != DType::float64)
    throw InputError("drift --model: --dtype must be float64; policies say what is rounded");
  const Batch& batch = scenario_->batch;
  for (std::int64_t d = 0; d < batch.documents(); ++d) {
    const Range document = batch.document(d);
    for (std::int64_t t = document.begin + spec.rollout.prompt_of(document.size()) - 1; t < document.end; ++t)
      if (batch.labels[t] >= 0) tokens_.push_back(t);
  }
  if (tokens_.empty()) throw InputError("drift --model: no token behind a prompt has a label");
}

PolicyRuns::Tensors PolicyRuns::train(const PrecisionPolicy& policy, bool activations) const {
  impl::RankInputs inputs = rank_inputs(spec_, *scenario_);
  inputs.steps = 0, inputs.gradients = false, inputs.activations = activations;
  return gather_case(spec_, *scenario_, run_threads(inputs, seams_of(spec_, policy)));
}

PolicyRuns::Tensors PolicyRuns::rollout(const PrecisionPolicy& policy) const {
  impl::RolloutInputs inputs;
  inputs.train = rank_inputs(spec_, *scenario_), inputs.mesh = *spec_.rollout_mesh,
  inputs.spec = spec_.rollout;
  return gather_rollout(spec_, *scenario_, run_threads(inputs, seams_of(spec_, policy)));
}

std::vector<double> PolicyRuns::counted(const TensorView& logprobs) const {
  std::vector<double> values;
  for (const std::int64_t t : tokens_) values.push_back(logprobs.at(t));
  return values;
}

std::vector<double> PolicyRuns::train_logprobs(const Tensors& train) const {
  if (spec_.rollout.temperature == 1) return counted(train.at("logprobs").view());
  const auto processed = sampled_hosts(train.at("logits"), scenario_->batch, spec_.rollout);
  return counted(processed.at("rollout/logprobs").view());
}

std::vector<double> PolicyRuns::rollout_logprobs(const Tensors& rollout) const {
  return counted(rollout.at("rollout/logprobs").view());
}

std::vector<std::int64_t> PolicyRuns::positions() const {
  const Batch& batch = scenario_->batch;
  std::vector<std::int64_t> positions;
  std::int64_t d = 0;
  for (const std::int64_t t : tokens_) {
    while (t >= batch.document(d).end) ++d;
    positions.push_back(t - batch.document(d).begin);
  }
  return positions;
}

Attribution model_drift(const CaseSpec& spec, const PrecisionPolicy& train, const PrecisionPolicy& rollout,
                        bool each_place) {
  const PolicyRuns runs(spec);
  const std::vector<double> sampled = runs.rollout_logprobs(runs.rollout(rollout));
  const auto own = runs.train(train, true), other = runs.train(rollout, true);
  const auto drift_of = [&](const PrecisionPolicy& trainer) {
    const bool known = trainer == train || trainer == rollout;
    return mean_difference(runs.train_logprobs(trainer == train ? own
                                               : known          ? other
                                                                : runs.train(trainer, false)),
                           sampled);
  };
  Attribution a = drift::attribute(train, rollout, drift_of, each_place);
  for (const std::string& key : block_keys(load_scenario(spec)->config))
    if (own.count(key))
      a.by_depth.emplace_back(key.substr(12), relative_difference(own.at(key).view(), other.at(key).view()));
  std::vector<double> differences = runs.train_logprobs(own);
  for (std::size_t i = 0; i < differences.size(); ++i) differences[i] -= sampled[i];
  a.by_position = drift::by_position(differences, runs.positions());
  return a;
}

}  // namespace meshparity::cli

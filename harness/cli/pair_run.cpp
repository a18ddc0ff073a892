#include "harness/cli/pair_run.h"

#include <algorithm>
#include <cmath>

#include "harness/cli/judge_case.h"
#include "harness/cli/judge_rollout.h"
#include "harness/cli/rank_inputs.h"
#include "harness/cli/reference_routes.h"
#include "harness/cli/torch_bridge.h"
#include "impl/rollout/program.h"
#include "reference/rollout/generate.h"

namespace meshparity::cli {
namespace {

Logprobs values_of(const HostTensor& tensor) {
  Logprobs values;
  for (std::int64_t i = 0; i < tensor.numel(); ++i) values.push_back(tensor.view().at(i));
  return values;
}

// Decay rates exp(A_log) from 0.004 to 0.03 over the heads.
reference::TensorMap remembering(const reference::TensorMap& weights) {
  reference::TensorMap slow = weights;
  for (auto& [name, value] : slow)
    if (name.ends_with(".A_log"))
      value = at::linspace(std::log(0.004), std::log(0.03), value.numel(), value.options());
  return slow;
}

// The last norm's weights are offsets from 1.
reference::TensorMap sharpened(const reference::TensorMap& weights) {
  constexpr double kTimes = 4;
  reference::TensorMap sharp = weights;
  at::Tensor& norm = sharp.at("model.norm.weight");
  norm = norm * kTimes + (kTimes - 1);
  return sharp;
}

// Of tensors "<prefix>layers.<i>" [N, k] the layers of a token side by side; none of a dense model.
Routes routes_of(const std::map<std::string, HostTensor>& tensors, const std::string& prefix) {
  std::vector<const HostTensor*> layers;
  for (int i = 0;; ++i) {
    const auto found = tensors.find(prefix + "layers." + std::to_string(i));
    if (found == tensors.end()) break;
    layers.push_back(&found->second);
  }
  Routes routes;
  if (layers.empty()) return routes;
  const std::int64_t tokens = layers[0]->shape[0], k = layers[0]->shape[1];
  routes.width = k * static_cast<std::int64_t>(layers.size());
  for (std::int64_t t = 0; t < tokens; ++t)
    for (const HostTensor* layer : layers)
      for (std::int64_t j = 0; j < k; ++j)
        routes.experts.push_back(static_cast<std::int64_t>(layer->view().at(t * k + j)));
  return routes;
}

void share_first_tokens(Batch& batch, std::int64_t count) {
  const std::int64_t first = batch.document(0).begin;
  for (std::int64_t d = 1; d < batch.documents(); ++d) {
    const Range tokens = batch.document(d);
    for (std::int64_t t = 0; t < std::min(count, tokens.size()); ++t) {
      batch.token_ids[tokens.begin + t] = batch.token_ids[first + t];
      if (t > 0 && batch.labels[tokens.begin + t - 1] >= 0)
        batch.labels[tokens.begin + t - 1] = batch.token_ids[first + t];
    }
  }
}

}  // namespace

PairRun::PairRun(const std::string& kind, std::uint64_t seed) : random_(seed, "drift pair/" + kind) {
  spec_.model = below(2) ? "tiny-moe" : "tiny-dense";
  spec_.seed = static_cast<long long>(seed);
  rollout_.prompt = 8 + below(17);
}

void PairRun::draw_tokens(std::int64_t rows, std::int64_t packed, std::int64_t least, std::int64_t most) {
  spec_.batch = "tokens:";
  for (std::int64_t r = 0; r < rows; ++r) {
    if (r > 0) spec_.batch += "/";
    for (std::int64_t d = 0; d < packed; ++d)
      spec_.batch += (d ? "+" : "") + std::to_string(least + below(most - least + 1));
  }
  spec_.batch += ":seed=" + std::to_string(below(1000));
  scenario_ = load_scenario(spec_);
  weights_ = remembers_ ? remembering(scenario_->weights) : scenario_->weights;
  if (sharp_) weights_ = sharpened(weights_);
  Batch prompts = scenario_->batch;
  share_first_tokens(prompts, shared_);
  batch_ = reference::generate(scenario_->config, weights_, prompts, rollout_,
                               static_cast<std::uint64_t>(spec_.seed));
}

Logprobs PairRun::train(const PrecisionPolicy& policy) const {
  impl::RankInputs inputs = inputs_of();
  inputs.gradients = false;
  const auto outputs = run_threads(inputs, seams_under(policy, spec_.fault));
  return values_of(gather_case(spec_, *scenario_, outputs).at("logprobs"));
}

Sampled PairRun::sample(const Mesh& mesh, const PrecisionPolicy& policy, const std::string& fault,
                        const reference::TensorMap* weights) const {
  impl::RolloutInputs inputs;
  inputs.train = inputs_of(), inputs.mesh = mesh, inputs.spec = rollout_;
  inputs.train.mesh = Mesh{}, inputs.train.flags = Flags{};
  if (weights) inputs.train.weights = weights;
  reference::TensorMap replayed;
  if (rollout_.replay) {
    replayed = chosen_experts(scenario_->config, weights_, batch_, scenario_->train);
    inputs.routes = &replayed;
  }
  const auto outputs = run_threads(inputs, seams_under(policy, fault));
  CaseSpec spec = spec_;
  spec.rollout_mesh = mesh, spec.rollout = rollout_;
  const auto tensors = gather_rollout(spec, *scenario_, outputs);
  Sampled sampled;
  sampled.logprobs = values_of(tensors.at("rollout/logprobs"));
  if (rollout_.top_p < 1) sampled.within_top = values_of(tensors.at("rollout/sampling_logprobs"));
  sampled.routes = routes_of(tensors, "rollout/routes/");
  return sampled;
}

Routes PairRun::routes() const {
  std::map<std::string, HostTensor> experts;
  for (const auto& [layer, value] : chosen_experts(scenario_->config, weights_, batch_, scenario_->train))
    experts.emplace(layer, to_host(value));
  return routes_of(experts, "");
}

reference::TensorMap PairRun::stepped(double lr) const {
  reference::RunOptions options;
  options.steps = 1;
  TrainSpec train = scenario_->train;
  train.lr = lr;
  reference::TensorMap weights;
  // On tokens that no rollout drew: a trainer that has learnt the judged ones would show by that alone.
  for (const auto& [key, value] :
       reference::run(scenario_->config, weights_, scenario_->batch, train, options))
    if (key.rfind("step1/weights/", 0) == 0) weights.emplace(key.substr(14), value);
  return weights;
}

std::vector<LogprobSample> PairRun::samples(const Logprobs& train, const Logprobs& rollout,
                                            const Routes& train_routes, const Routes& rollout_routes) const {
  std::vector<LogprobSample> samples;
  for (std::int64_t r = 0; r < batch_.rows(); ++r)
    for (std::int64_t d = batch_.row_offsets[r]; d < batch_.row_offsets[r + 1]; ++d) {
      const Range tokens = batch_.document(d), row = batch_.row_tokens(r);
      const std::int64_t prompt = rollout_.prompt_of(tokens.size());
      LogprobSample sample;
      sample.name = "document " + std::to_string(d);
      sample.document_in_row = d - batch_.row_offsets[r];
      sample.row_first = tokens.begin - row.begin, sample.row_tokens = row.size();
      for (auto* side : {&sample.train, &sample.rollout}) {
        const Logprobs& all = side == &sample.train ? train : rollout;
        const Routes& routes = side == &sample.train ? train_routes : rollout_routes;
        side->route_width = routes.width;
        side->first = 1, side->document_tokens = tokens.size(), side->has_mask = true;
        for (std::int64_t t = tokens.begin; t + 1 < tokens.end; ++t) {
          side->logprobs.push_back(all[t]);
          side->ids.push_back(batch_.token_ids[t + 1]);
          side->mask.push_back(t + 1 - tokens.begin >= prompt);
          side->routes.insert(side->routes.end(), routes.experts.begin() + t * routes.width,
                              routes.experts.begin() + (t + 1) * routes.width);
        }
      }
      samples.push_back(std::move(sample));
    }
  return samples;
}

impl::RankInputs PairRun::inputs_of() const {
  impl::RankInputs inputs = rank_inputs(spec_, *scenario_);
  inputs.batch = batch_, inputs.weights = &weights_, inputs.steps = 0, inputs.activations = false;
  return inputs;
}

impl::Seams PairRun::seams_under(const PrecisionPolicy& policy, const std::string& fault) const {
  CaseSpec spec = spec_;
  spec.fault = fault;
  return seams_of(spec, policy);
}

}  // namespace meshparity::cli

// Making pairs of dumps from runs: a kind is a function that draws and runs both sides.
#include "harness/cli/drift_pairs.h"

#include <algorithm>
#include <functional>

#include "harness/cli/judge_case.h"
#include "harness/cli/judge_rollout.h"
#include "harness/cli/rank_inputs.h"
#include "harness/cli/scenario.h"
#include "harness/types/error.h"
#include "harness/types/generator.h"
#include "impl/rollout/program.h"
#include "reference/rollout/generate.h"
#include "scenarios/faults/fault.h"
#include "scenarios/load.h"
#include "scenarios/policies/precision.h"

namespace meshparity::cli {
namespace {

using Logprobs = std::vector<double>;

// One pair in the making: a model and a batch whose tokens its rollout drew.
class PairRun {
 public:
  PairRun(const std::string& kind, std::uint64_t seed) : random_(seed, "drift pair/" + kind) {
    spec_.model = below(2) ? "tiny-moe" : "tiny-dense";
    spec_.seed = static_cast<long long>(seed);
    rollout_.prompt = 8 + below(17);
  }

  std::int64_t below(std::int64_t n) { return random_.below(draws_++, n); }
  template <class T>
  T one_of(const std::vector<T>& values) {
    return values[static_cast<std::size_t>(below(static_cast<std::int64_t>(values.size())))];
  }

  CaseSpec& spec() { return spec_; }
  RolloutSpec& rollout() { return rollout_; }
  const ModelConfig& config() const { return scenario_->config; }

  // Rows of up to `packed` documents; call once spec and rollout are as they shall be.
  void draw_tokens(std::int64_t rows, std::int64_t packed, std::int64_t least, std::int64_t most) {
    spec_.batch = "tokens:";
    for (std::int64_t r = 0; r < rows; ++r) {
      if (r > 0) spec_.batch += "/";
      for (std::int64_t d = 0; d < packed; ++d)
        spec_.batch += (d ? "+" : "") + std::to_string(least + below(most - least + 1));
    }
    spec_.batch += ":seed=" + std::to_string(below(1000));
    scenario_ = load_scenario(spec_);
    batch_ = reference::generate(scenario_->config, scenario_->weights, scenario_->batch, rollout_,
                                 static_cast<std::uint64_t>(spec_.seed));
  }

  const Batch& batch() const { return batch_; }

  // Logprobs [N] of training on spec().mesh, with spec().fault.
  Logprobs train(const PrecisionPolicy& policy) const {
    impl::RankInputs inputs = inputs_of();
    inputs.gradients = false;
    const impl::Seams seams = seams_under(policy, spec_.fault);
    std::vector<impl::RankOutput> outputs(spec_.mesh.world());
    impl::run_in_process(spec_.mesh.world(), {}, [&](impl::Engine& engine) {
      outputs[engine.rank()] = impl::run_rank(inputs, engine, seams);
    });
    return values_of(gather_case(spec_, *scenario_, outputs).at("logprobs"));
  }

  // Logprobs [N] that the sampler on `mesh` reports; `fault` of rollout or empty. `weights`: other ones than
  // the model's.
  Logprobs sampler(const Mesh& mesh, const PrecisionPolicy& policy, const std::string& fault,
                   const reference::TensorMap* weights = nullptr) const {
    impl::RolloutInputs inputs;
    inputs.train = inputs_of(), inputs.mesh = mesh, inputs.spec = rollout_;
    inputs.train.mesh = Mesh{}, inputs.train.flags = Flags{};
    if (weights) inputs.train.weights = weights;
    const impl::Seams seams = seams_under(policy, fault);
    std::vector<impl::RankOutput> outputs(mesh.world());
    impl::run_in_process(mesh.world(), {}, [&](impl::Engine& engine) {
      outputs[engine.rank()] = impl::run_rollout(inputs, engine, seams);
    });
    CaseSpec spec = spec_;
    spec.rollout_mesh = mesh, spec.rollout = rollout_;
    return values_of(gather_rollout(spec, *scenario_, outputs).at("rollout/logprobs"));
  }

  // The model's weights after an optimizer step of this learning rate.
  reference::TensorMap stepped(double lr) const {
    reference::RunOptions options;
    options.steps = 1;
    TrainSpec train = scenario_->train;
    train.lr = lr;
    reference::TensorMap weights;
    for (const auto& [key, value] :
         reference::run(scenario_->config, scenario_->weights, batch_, train, options))
      if (key.rfind("step1/weights/", 0) == 0) weights.emplace(key.substr(14), value);
    return weights;
  }

  // The two sides as a dump holds them: of every document the tokens behind the first, the prompt's masked.
  std::vector<LogprobSample> samples(const Logprobs& train, const Logprobs& rollout) const {
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
          side->first = 1, side->document_tokens = tokens.size(), side->has_mask = true;
          for (std::int64_t t = tokens.begin; t + 1 < tokens.end; ++t) {
            side->logprobs.push_back(all[t]);
            side->ids.push_back(batch_.token_ids[t + 1]);
            side->mask.push_back(t + 1 - tokens.begin >= prompt);
          }
        }
        samples.push_back(std::move(sample));
      }
    return samples;
  }

 private:
  impl::RankInputs inputs_of() const {
    impl::RankInputs inputs = rank_inputs(spec_, *scenario_);
    inputs.batch = batch_, inputs.steps = 0, inputs.activations = false;
    return inputs;
  }
  static impl::Seams seams_under(const PrecisionPolicy& policy, const std::string& fault) {
    impl::Seams seams;
    if (!fault.empty()) faults::find(fault).plant(seams);
    policies::plant(policy, seams);
    return seams;
  }
  static Logprobs values_of(const HostTensor& tensor) {
    Logprobs values;
    for (std::int64_t i = 0; i < tensor.numel(); ++i) values.push_back(tensor.view().at(i));
    return values;
  }

  Generator random_;
  std::uint64_t draws_ = 0;
  CaseSpec spec_;
  RolloutSpec rollout_;
  std::shared_ptr<const Scenario> scenario_;
  Batch batch_;
};

const std::vector<std::string> kTrainPolicies = {"huggingface", "megatron", "torchtitan", "miles"};
const std::vector<std::string> kRolloutPolicies = {"vllm", "sglang"};

// The dtypes of a pair whose fault must be seen above them: exact, float32, or a trainer's and a sampler's.
std::pair<PrecisionPolicy, PrecisionPolicy> drawn_policies(PairRun& run) {
  switch (run.below(3)) {
    case 0:
      return {};
    case 1:
      return {scenarios::load_policy("float32"), scenarios::load_policy("float32")};
    default:
      return {scenarios::load_policy(run.one_of(kTrainPolicies)),
              scenarios::load_policy(run.one_of(kRolloutPolicies))};
  }
}

Mesh drawn_rollout_mesh(PairRun& run) {
  return Mesh::parse(run.one_of(std::vector<std::string>{"dp1", "dp2", "tp2", "pp2"}));
}

// A maker finishes the pair: runs both sides and says what the verdict must be.
using Maker = std::function<void(PairRun& run, RunPair& pair)>;

std::string words(const std::pair<PrecisionPolicy, PrecisionPolicy>& policies) {
  return policies.first.name + " against " + policies.second.name;
}

void finish(PairRun& run, RunPair& pair, const Logprobs& train, const Logprobs& rollout) {
  pair.source = std::make_shared<drift::MemorySource>(pair.kind, run.samples(train, rollout));
}

void make_benign_policies(PairRun& run, RunPair& pair) {
  const PrecisionPolicy train = scenarios::load_policy(run.one_of(kTrainPolicies));
  const PrecisionPolicy rollout = scenarios::load_policy(run.one_of(kRolloutPolicies));
  const Mesh mesh = drawn_rollout_mesh(run);
  run.spec().mesh = Mesh::parse(run.one_of(std::vector<std::string>{"dp1", "tp2", "ring2", "uly2"}));
  run.draw_tokens(8, 1 + run.below(3), 72, 140);
  pair.cause = "rounding",
  pair.made_of = words({train, rollout}) + ", " + run.spec().mesh.text() + " against " + mesh.text();
  finish(run, pair, run.train(train), run.sampler(mesh, rollout, ""));
}

void make_benign_engines(PairRun& run, RunPair& pair) {
  const PrecisionPolicy policy = scenarios::load_policy(
      run.one_of(std::vector<std::string>{"float64", "float32", "vllm", "torchtitan"}));
  const Mesh mesh = drawn_rollout_mesh(run);
  run.spec().mesh =
      Mesh::parse(run.one_of(std::vector<std::string>{"ring2", "ring3", "ring4", "uly2.ring2"}));
  run.spec().flags.layout = "zigzag";
  run.rollout().chunk = 16 * run.below(3);
  run.draw_tokens(16, 1, 96, 150);
  pair.cause = "rounding";
  pair.made_of = policy.name + " on both sides, zigzag " + run.spec().mesh.text() + " against " + mesh.text();
  finish(run, pair, run.train(policy), run.sampler(mesh, policy, ""));
}

void make_layout(PairRun& run, RunPair& pair) {
  const std::int64_t cp = 2 + run.below(3);
  auto policies = drawn_policies(run);
  run.spec().mesh = Mesh::parse("ring" + std::to_string(cp)), run.spec().flags.layout = "zigzag";
  run.spec().fault = "gdn-cp-zigzag-as-contiguous";
  run.draw_tokens(20, 1, 120, 200);
  pair.cause = "layout", pair.detail = "cp=" + std::to_string(cp);
  pair.made_of = run.spec().fault + " on " + run.spec().mesh.text() + ", " + words(policies);
  finish(run, pair, run.train(policies.first), run.sampler(Mesh{}, policies.second, ""));
}

void make_boundary(PairRun& run, RunPair& pair) {
  // What leaks fades within some tokens of these models, and must be seen above the rounding there.
  const PrecisionPolicy policy =
      scenarios::load_policy(run.one_of(std::vector<std::string>{"float64", "float32"}));
  const std::pair policies(policy, policy);
  run.spec().fault = "gdn-packed-no-reset";
  run.rollout().prompt = 2;
  run.draw_tokens(10, 3, 90, 140);
  pair.cause = "boundary leak", pair.made_of = run.spec().fault + ", " + words(policies);
  finish(run, pair, run.train(policies.first), run.sampler(Mesh{}, policies.second, ""));
}

void make_temperature(PairRun& run, RunPair& pair) {
  auto policies = drawn_policies(run);
  run.rollout().temperature = run.one_of(std::vector<double>{0.6, 0.7, 0.8, 1.2, 1.4});
  run.draw_tokens(12, 2, 80, 140);
  pair.cause = "temperature";
  pair.made_of = "temperature " + std::to_string(run.rollout().temperature) + ", " + words(policies);
  finish(run, pair, run.train(policies.first), run.sampler(Mesh{}, policies.second, ""));
}

void make_stale(PairRun& run, RunPair& pair) {
  auto policies = drawn_policies(run);
  run.draw_tokens(24, 1, 120, 180);
  const double lr = run.one_of(std::vector<double>{1e-4, 3e-4});
  const auto newer = run.stepped(lr);
  pair.cause = "stale weights", pair.made_of = "one step of " + std::to_string(lr) + ", " + words(policies);
  // The rollout drew with the weights it has; the trainer has taken a step since.
  const Logprobs train = run.sampler(Mesh{}, policies.first, "", &newer);
  finish(run, pair, train, run.sampler(Mesh{}, policies.second, ""));
}

void make_shift(PairRun& run, RunPair& pair) {
  auto policies = drawn_policies(run);
  run.draw_tokens(12, 2, 80, 140);
  const Logprobs rollout = run.sampler(Mesh{}, policies.second, "");
  Logprobs train = run.train(policies.first);
  const bool left = run.below(2);
  for (std::int64_t d = 0; d < run.batch().documents(); ++d) {
    const Range tokens = run.batch().document(d);
    const auto begin = train.begin() + tokens.begin, end = train.begin() + tokens.end - 1;
    left ? std::rotate(begin, begin + 1, end) : std::rotate(begin, end - 1, end);
  }
  pair.cause = "token shift", pair.made_of = "shifted by one, " + words(policies);
  finish(run, pair, train, rollout);
}

void make_mask(PairRun& run, RunPair& pair) {
  auto policies = drawn_policies(run);
  run.draw_tokens(16, 1, 80, 140);
  const Logprobs rollout = run.sampler(Mesh{}, policies.second, "");
  Logprobs train = run.train(policies.first);
  // The trainer masks a stretch that the rollout counts, and stores zeros there.
  for (std::int64_t d = 0; d < run.batch().documents(); d += 2) {
    const Range tokens = run.batch().document(d);
    const std::int64_t from = tokens.begin + 40, count = 6 + run.below(20);
    for (std::int64_t t = from; t < std::min(from + count, tokens.end); ++t) train[t] = 0;
  }
  pair.cause = "mask", pair.made_of = "zeros where the trainer masks, " + words(policies);
  finish(run, pair, train, rollout);
}

struct PairKind {
  const char* name;
  bool benign;
  Maker make;
};

const std::vector<PairKind>& pair_kinds() {
  static const std::vector<PairKind> kinds = {{"benign-policies", true, make_benign_policies},
                                              {"benign-engines", true, make_benign_engines},
                                              {"layout-zigzag", false, make_layout},
                                              {"boundary-leak", false, make_boundary},
                                              {"temperature", false, make_temperature},
                                              {"stale-weights", false, make_stale},
                                              {"token-shift", false, make_shift},
                                              {"mask", false, make_mask}};
  return kinds;
}

}  // namespace

std::vector<std::string> run_pair_kinds(bool benign) {
  std::vector<std::string> names;
  for (const PairKind& kind : pair_kinds())
    if (kind.benign == benign) names.push_back(kind.name);
  return names;
}

RunPair make_run_pair(const std::string& kind, std::uint64_t seed) {
  for (const PairKind& known : pair_kinds())
    if (kind == known.name) {
      PairRun run(kind, seed);
      RunPair pair;
      pair.kind = kind;
      known.make(run, pair);
      return pair;
    }
  throw InputError("bench drift: no kind '" + kind + "'");
}

}  // namespace meshparity::cli

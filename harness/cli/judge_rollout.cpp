#include "harness/cli/judge_rollout.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "harness/cli/bounds.h"
#include "harness/cli/judge_case.h"
#include "harness/cli/rank_tensors.h"
#include "harness/cli/rollout_tokens.h"
#include "harness/cli/torch_bridge.h"
#include "harness/compare/compare.h"
#include "harness/diagnose/rollout.h"
#include "harness/layout/layout.h"
#include "harness/types/glob.h"
#include "harness/types/rollout.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

constexpr const char* kTrainDifference = "rollout/train_difference";
constexpr const char* kLogprobs = "rollout/logprobs";
constexpr const char* kSamplingLogprobs = "rollout/sampling_logprobs";

CheckResult rollout_result(const std::string& tensor, State state, const std::string& reason) {
  CheckResult result;
  result.check = "rollout", result.tensor = tensor, result.state = state, result.reason = reason;
  return result;
}

// [N, 2]: with temperature, and with top-p as well.
HostTensor both_logprobs(const std::map<std::string, HostTensor>& sampled) {
  return to_host(at::stack({alias_of(sampled.at(kLogprobs)), alias_of(sampled.at(kSamplingLogprobs))}, 1));
}

class RolloutJudge {
 public:
  RolloutJudge(const CaseSpec& spec, const Scenario& scenario, const ExpectedRollout& expected,
               const RolloutRuns& runs)
      : spec_(spec),
        scenario_(scenario),
        expected_(expected),
        runs_(runs),
        context_(rollout_context(spec, scenario)),
        map_(scenario.config, *spec.rollout_mesh, Flags{}, rollout_batch(scenario.batch),
             scenario.placements),
        emitted_(by_key(runs.rolled)) {}

  std::vector<CheckResult> judge() {
    for (std::int64_t i = 0; scenario_.config.is_moe() && i < scenario_.config.num_hidden_layers; ++i)
      judge_tokens("rollout/routes/layers." + std::to_string(i));
    for (const auto& parameter : parameters_of(scenario_.config)) judge_weight(parameter.name);
    for (const char* name : {"logits", "in_support", "logprobs", "sampling_logprobs"})
      judge_tokens(std::string("rollout/") + name);
    judge_train_difference();
    refuse_extras();
    add_first_line();
    add_cause_line();
    if (named("rollout/replicas") && replicas_.elements) results_.push_back(replicas());
    if (named("rollout/repeat")) results_.push_back(repeat());
    return std::move(results_);
  }

 private:
  bool named(const std::string& key) const { return glob_match(spec_.tensor, key); }

  // What the ranks of the rollout hold of a key, or nothing: then `why` says what is wrong.
  std::optional<HostTensor> gather(const std::string& key, std::string& why) {
    const auto found = emitted_.find(key);
    if (found == emitted_.end()) {
      why = "missing: no rank emitted it";
      return std::nullopt;
    }
    layout::Gathered gathered = layout::unshard(map_, key, found->second);
    replicas_.add(key, gathered);
    why = not_whole(gathered);
    return why.empty() ? std::optional(std::move(gathered.global)) : std::nullopt;
  }

  compare::Bound bound_of_key(const std::string& key, const TensorView& want) const {
    if (key == "rollout/logits") return bound_of(policy(), context_, "logits", want, nullptr);
    if (!is_floating(want.dtype)) return {0, 0, "", "chosen, not computed: exact", {}};
    const auto limits = tolerance::limits(policy(), "rollout_logprobs", context_, want);
    return {limits.norm, limits.element, limits.row, limits.why, {}};
  }

  // Judges a tensor of tokens and keeps what is wrong with it.
  void judge_against(const std::string& key, const TensorView& got, const TensorView& want,
                     const compare::Bound& bound, const std::string& against) {
    CheckResult result = compare::judge("rollout", key, compare::measure(got, want), bound, got, want);
    result.against = against;
    if (key != kTrainDifference) keep(key, got, want, result.state != State::pass);
    if (result.elements > 0 && result.state != State::pass) {
      const std::string rank =
          key == kTrainDifference || result.worst < 0
              ? ""
              : " " + local_place(map_, *spec_.rollout_mesh, key, want.shape, result.worst);
      describe_rollout_tokens(scenario_.batch, spec_.rollout, got, want, result);
      result.where += rank;
      wrong_tokens_.push_back(results_.size());
    }
    results_.push_back(std::move(result));
  }

  void judge_tokens(const std::string& key) {
    const bool of_difference = key == kLogprobs || key == kSamplingLogprobs;
    if (!named(key) && !(of_difference && named(kTrainDifference))) return;
    std::string why;
    auto got = gather(key, why);
    const TensorView want = expected_.tensors.at(key).view();
    if (named(key) && !got) results_.push_back(rollout_result(key, State::invalid, why));
    if (named(key) && got)
      judge_against(key, got->view(), want, bound_of_key(key, want), expected_.against(key));
    if (got && of_difference) sampled_.emplace(key, std::move(*got));
  }

  void judge_weight(const std::string& name) {
    const std::string key = "rollout/weights/" + name;
    if (!named(key)) return;
    std::string why;
    const auto got = gather(key, why);
    if (!got) {
      results_.push_back(rollout_result(key, State::invalid, why));
      return;
    }
    const HostTensor want = to_host(scenario_.weights.at(name));
    const auto metrics = compare::measure(got->view(), want.view());
    CheckResult result =
        compare::judge("rollout", key, metrics, {0, 0, "", "resharded, not computed: bitwise training's", {}},
                       got->view(), want.view());
    result.against = "training";
    if (result.state == State::pass && metrics.differ_bitwise) {
      result.state = State::fail, result.outside = metrics.differ_bitwise;
      result.reason = std::to_string(metrics.differ_bitwise) + " elements are equal and not bitwise equal";
    }
    if (result.state != State::pass && result.worst >= 0)
      result.where += " " + local_place(map_, *spec_.rollout_mesh, key, want.shape, result.worst);
    if (result.state != State::pass)
      wrong_weights_.push_back(name), keep(key, got->view(), want.view(), true);
    results_.push_back(std::move(result));
  }

  // Both meshes' own results against each other, by whatever way each came to them.
  void judge_train_difference() {
    if (!named(kTrainDifference)) return;
    const layout::LayoutMap trained(scenario_.config, spec_.mesh, spec_.flags, scenario_.batch,
                                    scenario_.placements);
    const auto tensors = by_key(*runs_.trained);
    const auto found = tensors.find("logits");
    if (found == tensors.end() || sampled_.size() < 2) {
      results_.push_back(rollout_result(
          kTrainDifference, State::invalid,
          found == tensors.end() ? "training emitted no logits" : "the rollout's logprobs are not whole"));
      return;
    }
    const layout::Gathered logits = layout::unshard(trained, "logits", found->second);
    if (!logits.invalid.empty() || logits.uncovered) {
      results_.push_back(rollout_result(
          kTrainDifference, State::invalid,
          "training: " + (logits.invalid.empty() ? "logits are not whole" : logits.invalid.front())));
      return;
    }
    const HostTensor want = both_logprobs(sampled_hosts(logits.global, scenario_.batch, spec_.rollout));
    const HostTensor got = both_logprobs(sampled_);
    tolerance::Context both = context_;
    both.rounded_sides = 2;
    const auto limits = tolerance::limits(policy(), "rollout_logprobs", both, want.view());
    judge_against(kTrainDifference, got.view(), want.view(),
                  {limits.norm, limits.element, limits.row, limits.why, {}}, "training ranks");
  }

  void refuse_extras() {
    for (const auto& [key, locals] : emitted_) {
      const bool weight = key.rfind("rollout/weights/", 0) == 0 && scenario_.weights.count(key.substr(16));
      if (!weight && !expected_.tensors.count(key) && named(key))
        results_.push_back(rollout_result(key, State::invalid, "extra: nothing of this name is expected"));
    }
  }

  // What everything behind it follows from: weights that are not training's, else other experts, else the
  // earliest tensor of tokens that is wrong.
  std::string first_line() const {
    if (!wrong_weights_.empty())
      return "rollout/weights/" + wrong_weights_.front() + " (" + std::to_string(wrong_weights_.size()) +
             " of the weights): the engine was not given training's";
    const CheckResult& earliest = results_[wrong_tokens_.front()];
    std::string why = "weights and experts are right, the model is not";
    if (earliest.tensor.rfind("rollout/routes/", 0) == 0)
      why = "tokens went to other experts, what follows is another model's";
    else if (earliest.tensor == "rollout/in_support")
      why = "top-p left another set of tokens";
    else if (earliest.tensor == kLogprobs || earliest.tensor == kSamplingLogprobs)
      why = "the logits are right, what the sampler made of them is not";
    else if (earliest.tensor == kTrainDifference)
      why = "the rollout is right, training is not";
    return earliest.tensor + " " + earliest.where + ": " + why;
  }

  void add_first_line() {
    if (wrong_tokens_.empty() && wrong_weights_.empty()) return;
    const std::string line = "first   " + first_line();
    for (CheckResult& result : results_)
      if (result.state != State::pass && result.elements > 0)
        result.detail.insert(result.detail.begin(), line);
  }

  // What the cause is found from.
  struct Kept {
    HostTensor got, want;
    bool wrong = false;
  };
  void keep(const std::string& key, const TensorView& got, const TensorView& want, bool wrong) {
    if (got.shape == want.shape) kept_[key] = {HostTensor::copy_of(got), HostTensor::copy_of(want), wrong};
  }

  void add_cause_line() {
    diagnose::RolloutEvidence evidence{scenario_.batch, spec_.rollout, *spec_.rollout_mesh, {}};
    for (const auto& [key, kept] : kept_)
      evidence.tensors.emplace(key, diagnose::RolloutTensor{kept.got.view(), kept.want.view(), kept.wrong});
    const auto cause = diagnose::rollout_cause(evidence);
    for (auto& result : results_)
      if (cause && result.state == State::fail) result.detail.push_back(diagnose::cause_line(*cause));
  }

  CheckResult replicas() const {
    CheckResult r = replicas_.result("rollout", "rollout/replicas");
    if (r.outside) r.bound_used = std::numeric_limits<double>::infinity();
    return r;
  }

  CheckResult repeat() const {
    CheckResult r = rollout_result("rollout/repeat", State::pass, "");
    r.against = "a second run";
    const auto say = [&](const std::string& where) {
      if (r.where.empty()) r.where = where;
    };
    for (std::size_t rank = 0; rank < runs_.rolled.size(); ++rank) {
      const auto &first = runs_.rolled[rank].records, &again = runs_.again[rank].records;
      if (first.size() != again.size()) ++r.outside, say("rank " + std::to_string(rank) + ": other records");
      for (std::size_t i = 0; i < std::min(first.size(), again.size()); ++i) {
        const TensorView a = view_of(first[i].value), b = view_of(again[i].value);
        const bool alike = first[i].key == again[i].key && a.dtype == b.dtype && a.shape == b.shape;
        r.elements += a.numel();
        const std::size_t size = dtype_size(a.dtype);
        std::int64_t differ = alike ? 0 : a.numel();
        for (std::int64_t e = 0; alike && e < a.numel(); ++e)
          differ += std::memcmp(a.data + e * size, b.data + e * size, size) != 0;
        r.outside += differ;
        if (differ || !alike) say("rank " + std::to_string(rank) + " " + first[i].key);
      }
    }
    if (r.elements == 0) r.state = State::untrusted, r.reason = "the rollout emitted nothing";
    if (r.outside == 0) return r;
    r.state = State::fail, r.bound_used = std::numeric_limits<double>::infinity();
    r.reason = "the same rollout a second time gives " + std::to_string(r.outside) + " of " +
               std::to_string(r.elements) + " other elements, first " + r.where;
    return r;
  }

  const CaseSpec& spec_;
  const Scenario& scenario_;
  const ExpectedRollout& expected_;
  const RolloutRuns& runs_;
  static const tolerance::Policy& policy() {
    static const tolerance::Policy read = scenarios::load_tolerance();
    return read;
  }
  const tolerance::Context context_;
  const layout::LayoutMap map_;
  const RankTensors emitted_;
  ReplicaTally replicas_;
  std::map<std::string, HostTensor> sampled_;  // both kinds of logprobs, gathered
  std::vector<CheckResult> results_;
  std::vector<std::size_t> wrong_tokens_;  // results of tensors of tokens that fail
  std::vector<std::string> wrong_weights_;
  std::map<std::string, Kept> kept_;
};

}  // namespace

std::vector<CheckResult> judge_rollout(const CaseSpec& spec, const Scenario& scenario,
                                       const ExpectedRollout& expected, const RolloutRuns& runs) {
  return RolloutJudge(spec, scenario, expected, runs).judge();
}

std::map<std::string, HostTensor> gather_rollout(const CaseSpec& spec, const Scenario& scenario,
                                                 const std::vector<impl::RankOutput>& outputs) {
  const layout::LayoutMap map(scenario.config, *spec.rollout_mesh, Flags{}, rollout_batch(scenario.batch),
                              scenario.placements);
  return gather(map, outputs);
}

}  // namespace meshparity::cli

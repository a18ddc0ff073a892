#include "harness/cli/verb_compare_judge.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "golden/guard.h"
#include "golden/schema.h"
#include "harness/cli/bounds.h"
#include "harness/cli/gradient_scale.h"
#include "harness/cli/verb_compare_names.h"
#include "harness/compare/compare.h"
#include "harness/types/error.h"
#include "harness/types/glob.h"

namespace meshparity::cli {
namespace {

constexpr char kExpected[] = "expected/";

CheckResult verdict(const KeyName& name, State state, const std::string& reason) {
  CheckResult r;
  r.check = name.check, r.tensor = name.tensor, r.state = state, r.reason = reason;
  return r;
}

bool all_zero(const TensorView& view) {
  for (std::int64_t i = 0, n = view.numel(); i < n; ++i)
    if (view.at(i) != 0) return false;
  return true;
}

// The norm of everything that a store holds below a path.
double norm_of(const golden::Store& store, const std::string& prefix) {
  double sum = 0;
  for (const auto& [path, tensor] : store.tensors)
    if (path.rfind(prefix, 0) == 0)
      for (std::int64_t i = 0, n = tensor.numel(); i < n; ++i)
        sum += tensor.view().at(i) * tensor.view().at(i);
  return std::isfinite(sum) ? std::sqrt(sum) : 0;
}

class DumpJudge {
 public:
  DumpJudge(const golden::Store& got, const golden::Store& want, const CompareRules& rules)
      : got_(got), want_(want), rules_(rules), order_(rules.config) {
    if (rules.config) context_.config = *rules.config;
    context_.train = rules.train;
    context_.documents_alone = false;  // nobody knows how a dump was computed
    context_.tokens = tokens();
    for (const auto* store : {&want, &got})
      if (const auto ids = store->tensors.find("inputs/token_ids");
          ids != store->tensors.end() && ids->second.dtype == DType::int64 && context_.token_ids.empty())
        context_.token_ids = ids->second.to_int64();
    of_mtp_ = context_;
    set_backward_size(context_, want, rules.train.loss, "grads");
    set_backward_size(of_mtp_, want, "mtp", "grads_mtp");
    for (const auto& [path, tensor] : got.tensors) {
      const auto name = known_name(golden::after(path, kExpected));
      if (!name || !of_parameter(*name)) continue;
      const std::string said = parameter_of(*name), meant = order_.parameter_meant_by(said);
      if (!order_.is_parameter(said) && !meant.empty())
        renamed_.emplace(path.substr(0, path.size() - said.size()) + meant, path);
    }
  }

  std::vector<CheckResult> run() {
    std::vector<CheckResult> results;
    if (enabled("inputs"))
      for (auto& r : judge_inputs(got_, want_, rules_))
        if (glob_match(rules_.tensor, r.tensor)) results.push_back(std::move(r));
    std::vector<std::string> keys;
    for (const auto& [path, tensor] : want_.tensors)
      if (const auto key = golden::after(path, kExpected); !key.empty() && known_name(key))
        keys.push_back(key);
    std::sort(keys.begin(), keys.end(),
              [&](const auto& a, const auto& b) { return order_.of(a) < order_.of(b); });
    for (const auto& key : keys) judge_key(key, results);
    judge_gradient_scale(keys, "grads", rules_.train.loss, results);
    judge_gradient_scale(keys, "grads_mtp", "mtp", results);
    judge_extras(results);
    return results;
  }

 private:
  bool enabled(const std::string& check) const {
    return rules_.checks.empty() ||
           std::find(rules_.checks.begin(), rules_.checks.end(), check) != rules_.checks.end();
  }
  const HostTensor* expected(const golden::Store& store, const std::string& key) const {
    const auto found = store.tensors.find(kExpected + key);
    return found == store.tensors.end() ? nullptr : &found->second;
  }

  std::int64_t tokens() const {
    for (const auto* store : {&want_, &got_}) {
      if (const auto ids = store->tensors.find("inputs/token_ids"); ids != store->tensors.end())
        return ids->second.numel();
      if (const auto* logprobs = expected(*store, "logprobs")) return logprobs->numel();
    }
    return 0;
  }

  static bool of_parameter(const KeyName& name) {
    return name.check == "grads" || name.check == "grads_mtp" || name.check == "weights";
  }

  tolerance::Context context_of(const KeyName& name, DType dtype) const {
    tolerance::Context context = name.check == "grads_mtp" ? of_mtp_ : context_;
    context.dtype = dtype, context.tensor = parameter_of(name);
    return context;
  }

  // Highest optimizer step the dump holds.
  int got_steps() const {
    int most = 0;
    for (const auto& [path, tensor] : got_.tensors)
      if (const auto name = known_name(golden::after(path, kExpected))) most = std::max(most, name->step);
    return most;
  }

  // Must the dump hold this? Steps, policies and terms it did not run are not held against it, unless --check
  // names them; nor are gradients of a layer that it need not have, where they are 0.
  bool required(const std::string& key, const KeyName& name) const {
    const bool layer_of_mtp = parameter_of(name).rfind("mtp.", 0) == 0;
    if (name.check == "weights" && layer_of_mtp &&
        !got_holds(kExpected + key.substr(0, key.find("mtp.")) + "mtp."))
      return false;
    if (name.check == "weights") return !rules_.checks.empty() || name.step <= got_steps();
    if (name.check == "grads_mtp") return !rules_.checks.empty() || got_holds("expected/grads_mtp/");
    if (name.check == "grads" && layer_of_mtp && !got_holds("expected/grads/mtp."))
      return !all_zero(expected(want_, key)->view());
    if (name.check == "activations") return !rules_.checks.empty();
    if (name.check == "loss") return name.tensor.substr(name.tensor.find('/') + 1) == rules_.train.loss;
    return true;
  }
  bool got_holds(const std::string& prefix) const {
    const auto at = got_.tensors.lower_bound(prefix);
    return at != got_.tensors.end() && at->first.rfind(prefix, 0) == 0;
  }

  void judge_key(const std::string& key, std::vector<CheckResult>& results) {
    const KeyName name = name_of(key);
    if (!enabled(name.check) || !glob_match(rules_.tensor, name.tensor)) return;
    const HostTensor* got = expected(got_, key);
    if (!got) {
      const bool need = required(key, name);
      if (need || name.check == "loss" || name.check == "grads" || name.check == "grads_mtp")
        results.push_back(verdict(name, need ? State::invalid : State::skip,
                                  need ? "missing: " + what_lacks(kExpected + key) : "not in the dump"));
      return;
    }
    const HostTensor& want = *expected(want_, key);
    results.push_back(judge_present(key, name, got->view(), want.view()));
  }

  // The factor that all gradients have in common. A dump without any gradient has none, and its gradients
  // are missed by their own check; one that lacks some never gets a factor of the rest.
  void judge_gradient_scale(const std::vector<std::string>& keys, const std::string& check,
                            const std::string& loss, std::vector<CheckResult>& results) const {
    const std::string line = gradient_scale_key(loss);
    if (!enabled("loss") || !glob_match(rules_.tensor, line)) return;
    GradientScale scale;
    scale.against = rules_.want_name;
    tolerance::Context context = check == "grads_mtp" ? of_mtp_ : context_;
    context.dtype = rules_.dtype.value_or(DType::float64);
    for (const auto& key : keys) {
      const KeyName name = name_of(key);
      if (name.check != check) continue;
      const HostTensor *want = expected(want_, key), *got = expected(got_, key);
      if (!got && !required(key, name)) continue;
      std::string why;
      if (!got)
        why = "the dump does not hold " + (kExpected + key);
      else if (got->shape != want->shape || !is_floating(got->dtype) || !is_floating(want->dtype))
        why = kExpected + key + " cannot be compared";
      if (why.empty())
        scale.add(got->view(), want->view()),
            context.dtype = coarser(context.dtype, coarser(got->dtype, want->dtype));
      else if (scale.missing.empty())
        scale.missing = why;
    }
    if (scale.gradients > 0) scale.judge(rules_.policy, context, loss, results);
  }

  CheckResult judge_present(const std::string& key, const KeyName& name, const TensorView& got,
                            const TensorView& want) {
    // A count of tokens is an integer to whoever counts them.
    if (key.rfind("denominators/", 0) == 0 && (got.dtype == DType::int64 || got.dtype == DType::int32)) {
      HostTensor counts = HostTensor::zeros(DType::float64, got.shape);
      for (std::int64_t i = 0, n = got.numel(); i < n; ++i) counts.as<double>()[i] = got.at(i);
      return judge_present(key, name, counts.view(), want);
    }
    tolerance::Context context = context_of(name, judged_as(name, got.dtype, want.dtype));
    if (never_arrived(key, name, got, want)) {
      CheckResult r = verdict(name, State::invalid,
                              "all " + std::to_string(got.numel()) + " elements are 0, the " +
                                  rules_.want_name + "'s are not: it never arrived");
      return r;
    }
    // What cannot be compared needs no bound, and an unusual dtype has none.
    const auto metrics = compare::measure(got, want);
    if (!metrics.comparable) return compare::judge(name.check, name.tensor, metrics, {}, got, want);
    if (context.config.num_hidden_layers == 0 && context.dtype != DType::float64)
      throw InputError("two dumps below float64 without a config: say which model with --model");
    const std::string row = (key.rfind("denominators/", 0) == 0 ? "denominators"
                             : name.check == "grads_mtp"        ? "grads"
                                                                : name.check) +
                            "/";
    if (!rules_.policy.rows.count(row + std::string(dtype_name(context.dtype))))
      throw InputError(got_.file, kExpected + key,
                       "is judged as " + std::string(dtype_name(context.dtype)) +
                           ", for which there is no bound; float64 and float32 have one "
                           "(docs/tolerance.md#what-has-no-row)");
    const HostTensor* grad = name.step ? expected(want_, "grads/" + parameter_of(name)) : nullptr;
    const TensorView grad_view = grad ? grad->view() : TensorView{};
    CheckResult r = judge_tensor(rules_.policy, context, key, got, want,
                                 grad && grad->shape == want.shape ? &grad_view : nullptr);
    r.against = rules_.want_name;
    if (r.state == State::fail && context.dtype == DType::float64 && context.config.num_hidden_layers > 0) {
      context.dtype = DType::float32;
      if (judge_tensor(rules_.policy, context, key, got, want,
                       grad && grad->shape == want.shape ? &grad_view : nullptr)
              .state == State::pass)
        r.detail.push_back(
            "note    within the bound of float32: what was computed in float32 and stored wider is judged "
            "with "
            "--dtype float32");
    }
    return r;
  }

  // The less precise of two floating dtypes.
  static DType coarser(DType a, DType b) { return unit_roundoff(a) >= unit_roundoff(b) ? a : b; }

  // The dtype whose bound judges a tensor. A number is no more precise than what it was computed from,
  // however it is stored: a float32 loss that went through a Python float is a float64 dataset.
  DType judged_as(const KeyName& name, DType got, DType want) const {
    DType dtype = coarser(got, want);
    if (rules_.dtype) dtype = coarser(dtype, *rules_.dtype);
    const auto take = [&](const std::string& prefix) {
      for (auto at = got_.tensors.lower_bound(prefix);
           at != got_.tensors.end() && at->first.rfind(prefix, 0) == 0; ++at)
        if (is_floating(at->second.dtype)) dtype = coarser(dtype, at->second.dtype);
    };
    if (name.check == "loss" || name.check == "logprobs") take("expected/logits");
    if (name.check == "loss") take("expected/logprobs");
    if (name.check == "grad_norm") take("expected/grads/");
    return dtype;
  }

  // A gradient that is None where it was written becomes zeros. A low-precision bound may be wide enough to
  // cover a small gradient whole, so zeros are held against what float64 can tell from zero.
  bool never_arrived(const std::string& key, const KeyName& name, const TensorView& got,
                     const TensorView& want) const {
    if (name.check == "weights" || !is_floating(got.dtype) || got.shape != want.shape || got.numel() == 0)
      return false;
    if (!all_zero(got) || all_zero(want)) return false;
    const tolerance::Context context = context_of(name, DType::float64);
    return judge_tensor(rules_.policy, context, key, HostTensor::zeros(DType::float64, got.shape).view(),
                        want, nullptr)
               .state != State::pass;
  }

  void judge_extras(std::vector<CheckResult>& results) const {
    const auto add = [&](const KeyName& name, State state, const std::string& reason) {
      if (enabled(name.check) && glob_match(rules_.tensor, name.tensor))
        results.push_back(verdict(name, state, reason));
    };
    for (const auto& [path, tensor] : got_.tensors) {
      const std::string key = golden::after(path, kExpected);
      if (path.rfind("inputs/", 0) == 0 || path.rfind("weights/", 0) == 0) continue;  // judge_inputs has them
      if (key.empty()) {
        add({"inputs", path, 0}, State::invalid, "extra: not in the schema");
        continue;
      }
      if (expected(want_, key)) continue;
      const auto name = known_name(key);
      const bool parameter = name && of_parameter(*name);
      if (!name)
        add({"inputs", path, 0}, State::invalid, "extra: not in the schema");
      else if (parameter && !order_.is_parameter(parameter_of(*name)))
        add(*name, State::invalid,
            "extra: the model has no parameter of this name" + meant_by(parameter_of(*name)));
      else
        add(*name, State::skip, "not judged: the " + rules_.want_name + " does not hold it");
    }
    for (const auto& [path, text] : got_.strings)
      if (path != "config" && path != "train")
        add({"inputs", path, 0}, State::invalid, "extra: not in the schema");
  }

  std::string what_lacks(const std::string& path) const {
    const auto renamed = renamed_.find(path);
    if (renamed == renamed_.end()) return "the dump does not hold " + path;
    return "the dump calls it " + renamed->second + "; write it under its checkpoint name, " + path;
  }
  std::string meant_by(const std::string& name) const {
    if (rules_.config && rules_.config->tie_word_embeddings && name.ends_with("lm_head.weight"))
      return "; config.json ties it to model.embed_tokens.weight, which holds the sum of both gradients";
    const std::string meant = order_.parameter_meant_by(name);
    return meant.empty() ? "" : "; checkpoints call it " + meant;
  }

  const golden::Store& got_;
  const golden::Store& want_;
  const CompareRules& rules_;
  DumpOrder order_;
  std::map<std::string, std::string>
      renamed_;  // path that is looked for -> path under which a dump seems to hold it
  tolerance::Context context_, of_mtp_;  // of_mtp_: of gradients of the term mtp alone
};

}  // namespace

golden::Store read_dump(const std::string& path) {
  golden::RawContent content = golden::read_guarded(path);
  golden::verify_hashes(content, golden::Kind::dump);
  golden::Store store = std::move(content.store);
  if (const auto schema = store.attributes.find("schema");
      schema != store.attributes.end() && schema->second != std::to_string(golden::kSchema))
    throw InputError(
        path, "attribute schema",
        "is " + schema->second.substr(0, 40) + ", this version reads " + std::to_string(golden::kSchema));
  return store;
}

void set_backward_size(tolerance::Context& context, const golden::Store& want, const std::string& loss,
                       const std::string& grads) {
  bool has_norm = false;
  set_backward_size(context, loss, [&](const std::string& key) -> std::optional<double> {
    if (key == "grad_norm" && grads != "grads") return std::nullopt;  // those of another loss
    const auto found = want.tensors.find(kExpected + key);
    if (found == want.tensors.end() || found->second.numel() != 1 ||
        !std::isfinite(found->second.view().at(0)))
      return std::nullopt;
    has_norm = has_norm || key == "grad_norm";
    return found->second.view().at(0);
  });
  if (!has_norm) context.grad_norm = norm_of(want, kExpected + grads + "/");
}

std::vector<CheckResult> judge_dump(const golden::Store& got, const golden::Store& want,
                                    const CompareRules& rules) {
  return DumpJudge(got, want, rules).run();
}

}  // namespace meshparity::cli

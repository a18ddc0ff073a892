#include "harness/cli/verb_compare_explain.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "golden/schema.h"
#include "harness/cli/bounds.h"
#include "harness/diagnose/case.h"
#include "harness/layout/layout.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

bool is_failure(const CheckResult& check) {
  return check.state == State::fail || check.state == State::invalid;
}

bool fails_in_mtp_alone(const std::vector<CheckResult>& results) {
  return std::all_of(results.begin(), results.end(), [](const CheckResult& r) {
    return !is_failure(r) || r.check == "grads_mtp" || r.tensor == "loss/mtp" ||
           r.tensor == "denominators/mtp" || r.tensor == "loss/gradient_scale/mtp";
  });
}

// The block's lines stand in a fixed order: bound is the last of them.
void insert_lines(CheckResult& check, const std::vector<std::string>& lines) {
  const auto at = std::find_if(check.detail.begin(), check.detail.end(),
                               [](const std::string& line) { return line.rfind("bound ", 0) == 0; });
  check.detail.insert(at, lines.begin(), lines.end());
}

std::optional<Batch> batch_in(const golden::Store& store) {
  try {
    return golden::batch_of(store);
  } catch (const InputError&) {
    return std::nullopt;  // a dump may hold a part of the inputs
  }
}

// The tensors of both files in the terms of harness/diagnose, on a mesh of one rank.
class DumpEvidence {
 public:
  DumpEvidence(const golden::Store& got, const golden::Store& want, const CompareRules& rules,
               const Batch& batch, const std::vector<CheckResult>& results, bool of_mtp)
      : got_(got),
        want_(want),
        rules_(rules),
        of_mtp_(of_mtp),
        map_(*rules.config, Mesh{}, Flags{}, batch, scenarios::load_placements(*rules.config)) {
    for (const auto& r : results) verdicts_[{r.check, r.tensor}] = &r;
    context_.config = *rules.config, context_.train = rules.train, context_.tokens = batch.tokens();
    context_.token_ids = batch.token_ids;
    set_backward_size(context_, want, of_mtp ? "mtp" : rules.train.loss, of_mtp ? "grads_mtp" : "grads");
    evidence_.map = &map_, evidence_.train = rules.train;
    if (of_mtp) evidence_.loss = "mtp";
    for (const auto& [path, tensor] : want.tensors) {
      if (path.rfind("weights/", 0) == 0) add_weight(path, tensor);
      if (path.rfind("expected/", 0) == 0) add(path.substr(9), tensor);
    }
  }
  DumpEvidence(const DumpEvidence&) = delete;
  DumpEvidence& operator=(const DumpEvidence&) = delete;

  const diagnose::CaseEvidence& evidence() const { return evidence_; }

 private:
  // Weights that a dump does not hold are taken to be the other side's: it was computed from something.
  void add_weight(const std::string& path, const HostTensor& want) {
    diagnose::CaseTensor tensor;
    tensor.key = "trace/" + path, tensor.want = tensor.got = want.view();
    if (const auto found = got_.tensors.find(path); found != got_.tensors.end() &&
                                                    found->second.shape == want.shape &&
                                                    is_floating(found->second.dtype)) {
      const auto verdict = verdicts_.find({"inputs", path});
      tensor.got = found->second.view();
      tensor.wrong = verdict != verdicts_.end() && is_failure(*verdict->second);
    }
    evidence_.tensors.push_back(tensor);
  }

  // The path that a tensor has for a loss of its own: gradients of the term mtp stand beside others in a
  // file, and are the gradients where that term is the loss. Empty: of another loss.
  std::string key_of_loss(const std::string& path, const KeyName& name) const {
    if (name.check == "grads_mtp") return of_mtp_ ? "grads/" + name.tensor : "";
    const bool of_train = name.check == "grads" || name.check == "grad_norm" || name.check == "weights";
    return of_mtp_ && of_train ? "" : path;
  }

  void add(const std::string& path, const HostTensor& want) {
    const KeyName name = name_of(path);
    const std::string key = key_of_loss(path, name);
    if (key.empty()) return;
    const auto verdict = verdicts_.find({name.check, name.tensor});
    const auto found = got_.tensors.find("expected/" + path);
    if (verdict == verdicts_.end() || verdict->second->state == State::skip) return;
    diagnose::CaseTensor tensor;
    tensor.key = key, tensor.want = want.view(), tensor.wrong = is_failure(*verdict->second);
    if (found == got_.tensors.end() || verdict->second->state == State::invalid) {
      tensor.invalid = verdict->second->reason;
    } else {
      tensor.got = found->second.view();
      tolerance::Context context = context_;
      context.dtype =
          unit_roundoff(tensor.got.dtype) >= unit_roundoff(want.dtype) ? tensor.got.dtype : want.dtype;
      if (rules_.dtype && unit_roundoff(*rules_.dtype) > unit_roundoff(context.dtype))
        context.dtype = *rules_.dtype;
      const auto grad = want_.tensors.find("expected/grads/" + name.tensor.substr(name.tensor.find('/') + 1));
      const TensorView grad_view = grad == want_.tensors.end() ? TensorView{} : grad->second.view();
      const auto bound = bound_of(rules_.policy, context, key, tensor.want,
                                  name.step && grad != want_.tensors.end() ? &grad_view : nullptr);
      tensor.norm_bound = bound.norm, tensor.element_bound = bound.element;
    }
    evidence_.tensors.push_back(tensor);
  }

  const golden::Store& got_;
  const golden::Store& want_;
  const CompareRules& rules_;
  bool of_mtp_;  // what fails is of the term mtp alone
  layout::LayoutMap map_;
  tolerance::Context context_;
  std::map<std::pair<std::string, std::string>, const CheckResult*> verdicts_;
  diagnose::CaseEvidence evidence_;
};

}  // namespace

void explain_dump(const golden::Store& got, const golden::Store& want, const CompareRules& rules,
                  std::vector<CheckResult>& results) {
  if (std::none_of(results.begin(), results.end(), is_failure)) return;
  std::vector<std::string> lines;
  const auto input = std::find_if(results.begin(), results.end(), [](const CheckResult& r) {
    return r.check == "inputs" && is_failure(r) && r.tensor.rfind("weights/", 0) != 0;
  });
  std::optional<Batch> batch = batch_in(want);
  if (!batch) batch = batch_in(got);
  if (input != results.end()) {
    const diagnose::Cause cause{"computed from other inputs", input->tensor + ": " + input->reason, 0.95};
    lines = {"first   inputs, " + input->tensor, cause_line(cause)};
  } else if (rules.config && batch) {
    const DumpEvidence dump(got, want, rules, *batch, results, fails_in_mtp_alone(results));
    const diagnose::Diagnosis diagnosis = diagnose::diagnose_case(dump.evidence());
    if (diagnosis.first.empty()) return;
    lines = {diagnose::first_line(diagnosis),
             diagnosis.causes.empty() ? "cause   not found" : diagnose::cause_line(diagnosis.causes.front())};
  }
  for (auto& check : results)
    if (is_failure(check)) insert_lines(check, lines);
}

}  // namespace meshparity::cli

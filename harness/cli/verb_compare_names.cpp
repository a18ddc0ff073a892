#include "harness/cli/verb_compare_names.h"

#include <algorithm>
#include <set>
#include <sstream>

#include "harness/cli/verb_compare_judge.h"

namespace meshparity::cli {
namespace {

std::string without_wrappers(const std::string& name) {
  static const std::set<std::string> kWrappers = {"module", "_orig_mod", "_fsdp_wrapped_module",
                                                  "_checkpoint_wrapped_module", "language_model"};
  std::string bare;
  std::stringstream words(name);
  for (std::string word; std::getline(words, word, '.');)
    if (!kWrappers.count(word)) bare += (bare.empty() ? "" : ".") + word;
  return bare;
}

}  // namespace

std::optional<KeyName> known_name(const std::string& key) {
  static const std::set<std::string> kLosses = {"token_mean",    "sum",
                                                "sequence_mean", "micro_batch_mean",
                                                "num_tokens",    "policy_gradient",
                                                "lm_z",          "router_z",
                                                "aux",           "mtp"};
  const auto slash = key.find('/');
  const std::string head = key.substr(0, slash);
  const std::string rest = slash == std::string::npos ? "" : key.substr(slash + 1);
  if (rest.empty()) {
    if (key == "logits" || key == "logprobs" || key == "grad_norm") return name_of(key);
    return std::nullopt;
  }
  if (head == "loss" || head == "denominators")
    return kLosses.count(rest) ? std::optional(name_of(key)) : std::nullopt;
  if (head == "grads" || head == "grads_mtp" || head == "activations") return name_of(key);
  // A step number of at most six digits that starts with none of 0: "step12/weights/x".
  const bool digits = head.size() > 4 && head.size() <= 10 && head[4] != '0' &&
                      head.find_first_not_of("0123456789", 4) == std::string::npos;
  if (head.rfind("step", 0) == 0 && digits && rest.rfind("weights/", 0) == 0 && rest.size() > 8)
    return name_of(key);
  return std::nullopt;
}

std::string parameter_of(const KeyName& name) {
  return name.step ? name.tensor.substr(name.tensor.find('/') + 1) : name.tensor;
}

DumpOrder::DumpOrder(const std::optional<ModelConfig>& config) {
  if (!config) return;
  int i = 0;
  for (const auto& p : parameters_of(*config)) index_[p.name] = i++;
}

std::tuple<int, int, int, std::string> DumpOrder::of(const std::string& key) const {
  const KeyName name = name_of(key);
  const auto check = std::find(kCompareChecks.begin(), kCompareChecks.end(), name.check);
  const auto found = index_.find(parameter_of(name));
  const int index = found == index_.end() ? static_cast<int>(index_.size()) : found->second;
  return {static_cast<int>(check - kCompareChecks.begin()), name.step, index, key};
}

std::string DumpOrder::parameter_meant_by(const std::string& name) const {
  const std::string bare = without_wrappers(name);
  for (const std::string& tried : {bare, "model." + bare})
    if (index_.count(tried)) return tried;
  return "";
}

}  // namespace meshparity::cli

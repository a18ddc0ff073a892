#include "harness/cli/scenario.h"

#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>

#include "golden/checkpoint.h"
#include "golden/checkpoint_files.h"
#include "harness/cli/bounds.h"
#include "harness/cli/sweep.h"
#include "harness/cli/torch_bridge.h"
#include "harness/types/batch_shape.h"
#include "harness/types/error.h"
#include "harness/types/loss_sum.h"
#include "harness/types/model_shape.h"
#include "scenarios/initial_weights.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

namespace fs = std::filesystem;

// Where the golden of a packaged model and batch lies, if there is one.
std::string packaged_golden(const std::string& model, const std::string& batch) {
  if (model.find('/') != std::string::npos || batch.find('/') != std::string::npos) return "";
  if (is_shape(model) || is_batch_shape(batch)) return "";
  const fs::path file =
      scenarios::scenarios_dir().parent_path() / "golden" / "data" / (model + "." + batch + ".h5");
  return fs::exists(file) ? file.string() : "";
}

std::shared_ptr<Scenario> scenario_of_golden(const std::string& file) {
  auto scenario = std::make_shared<Scenario>();
  golden::Store store = golden::read(file, golden::Kind::golden);
  scenario->golden_file = file;
  scenario->config = scenarios::parse_model_config(store.strings.at("config"), file);
  scenario->batch = golden::batch_of(store);
  if (store.strings.count("train")) scenario->train = golden::train_of(store);
  scenario->batch.validate(file, scenario->config);
  for (auto& [path, tensor] : store.tensors) {
    if (path.rfind("weights/", 0) == 0) scenario->host_weights.emplace(path.substr(8), std::move(tensor));
    if (path.rfind("expected/", 0) == 0) scenario->golden.emplace(path.substr(9), std::move(tensor));
  }
  return scenario;
}

// A directory with a checkpoint brings its own weights; a config alone gets generated ones.
std::shared_ptr<Scenario> scenario_of_model(const CaseSpec& spec) {
  auto scenario = scenario_without_weights(spec);
  scenario->host_weights =
      has_checkpoint(spec)
          ? golden::load_checkpoint(std::string(without_text_prefix(spec.model)), scenario->config)
          : scenarios::initial_weights(scenario->config, weight_seed(spec));
  return scenario;
}

std::map<std::string, HostTensor> run_reference(const Scenario& scenario, const CaseSpec& spec, int steps) {
  reference::RunOptions options;
  options.loss = spec.loss;
  options.steps = steps;
  for (const auto& check : spec.checks) options.trace |= check == "activations";
  options.activations = options.trace;
  std::map<std::string, HostTensor> out;
  for (const auto& [key, tensor] :
       reference::run(scenario.config, scenario.weights, scenario.batch, scenario.train, options))
    out.emplace(key, to_host(tensor));
  return out;
}

// Shows that the reference equals what the golden holds, so that it may stand in for what the golden lacks.
void prove_reference(const Scenario& scenario, const CaseSpec& spec,
                     const std::map<std::string, HostTensor>& reference) {
  const auto policy = scenarios::load_tolerance();
  tolerance::Context context = context_of(spec, scenario);
  // What the golden holds of the term mtp are the reference's gradients where that is the case's loss.
  const std::string mtp = spec.loss == "mtp" ? "grads_mtp/" : "no gradients of this term";
  const auto& numbers = spec.loss == "mtp" ? reference : scenario.golden;
  set_backward_size(context, spec.loss, [&](const std::string& key) -> std::optional<double> {
    const auto value = numbers.find(key);
    return value == numbers.end() ? std::nullopt : std::optional(value->second.view().at(0));
  });
  for (const auto& [key, want] : scenario.golden) {
    const bool of_mtp = key.rfind(mtp, 0) == 0;
    const auto got = reference.find(of_mtp ? "grads/" + key.substr(mtp.size()) : key);
    const KeyName name = name_of(got == reference.end() ? key : got->first);
    const bool of_loss = name.check == "grads" || name.check == "grad_norm" || name.check == "weights";
    if (got == reference.end() || (of_loss && !of_mtp && spec.loss != scenario.train.loss)) continue;
    const auto grad = scenario.golden.find("grads/" + name.tensor.substr(name.tensor.find('/') + 1));
    const TensorView grad_view = grad == scenario.golden.end() ? TensorView{} : grad->second.view();
    const auto result = judge_tensor(policy, context, got->first, got->second.view(), want.view(),
                                     grad == scenario.golden.end() ? nullptr : &grad_view);
    if (result.state != State::pass)
      throw RunError("the reference disagrees with " + scenario.golden_file + " at " + key + ": " +
                     result.reason + "; it cannot stand in for what the golden lacks");
  }
}

// Held by one worker while it computes what the others wait for; released whatever happens meanwhile.
class FileLock {
 public:
  explicit FileLock(const std::string& path) : fd_(::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600)) {
    if (fd_ >= 0) ::flock(fd_, LOCK_EX);
  }
  ~FileLock() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_;
};

void share(const fs::path& file, const std::map<std::string, HostTensor>& results) {
  golden::Store store;
  for (const auto& [path, tensor] : results)
    if (path.rfind("activations/", 0) != 0) store.tensors.emplace("expected/" + path, tensor);
  try {
    golden::write(file.string(), store);
  } catch (const InputError&) {
    // A full temporary folder costs the sharing: the other workers compute for themselves.
  }
}

// The reference's results of a scenario, computed once per run: workers share them through their
// shared folder, one computing while the others wait.
std::shared_ptr<const std::map<std::string, HostTensor>> reference_results(const Scenario& scenario,
                                                                           const CaseSpec& spec, int steps) {
  CaseSpec key_spec;
  key_spec.model = spec.model, key_spec.batch = spec.batch, key_spec.golden = spec.golden,
  key_spec.seed = spec.seed;
  key_spec.loss = spec.loss, key_spec.dtype = spec.dtype, key_spec.steps = steps;
  for (const auto& check : spec.checks)
    if (check == "activations") key_spec.checks = {check};
  const std::string key = key_spec.line();

  static std::map<std::string, std::shared_ptr<const std::map<std::string, HostTensor>>> kept;
  if (const auto found = kept.find(key); found != kept.end()) return found->second;
  if (kept.size() >= 4) kept.clear();

  const char* folder = std::getenv(kSharedFolderVariable);
  auto results = std::make_shared<std::map<std::string, HostTensor>>();
  std::optional<FileLock> lock;
  const fs::path file = folder ? fs::path(folder) / (case_hash(key) + ".h5") : fs::path();
  if (folder) lock.emplace(file.string() + ".lock");
  if (folder && fs::exists(file)) {
    for (auto& [path, tensor] : golden::read(file.string(), golden::Kind::dump).tensors)
      results->emplace(path.substr(std::string("expected/").size()), std::move(tensor));
  } else {
    *results = run_reference(scenario, spec, steps);
    prove_reference(scenario, spec, *results);
    if (folder && key_spec.checks.empty()) share(file, *results);
  }
  return kept[key] = results;
}

}  // namespace

std::shared_ptr<Scenario> scenario_without_weights(const CaseSpec& spec) {
  auto scenario = std::make_shared<Scenario>();
  scenario->config = scenarios::load_model(spec.model);
  const std::string folder(without_text_prefix(spec.model));
  if (has_checkpoint(spec) && scenario->config.mtp_num_hidden_layers > 0 &&
      !golden::holds_multi_token_prediction(folder)) {
    // transformers keeps the field and saves none of the weights.
    std::cerr
        << "meshparity: " << folder
        << ": mtp_num_hidden_layers is 1, but no mtp.* weight is there: without multi-token prediction\n";
    scenario->config = scenarios::without_multi_token_prediction(scenario->config);
  }
  scenario->batch = scenarios::load_batch(spec.batch, scenario->config);
  scenario->train = scenarios::load_train(spec.batch);
  scenario->train.steps = 0;
  scenario->placements = scenarios::load_placements(scenario->config);
  return scenario;
}

std::uint64_t weight_seed(const CaseSpec& spec) {
  constexpr std::uint64_t kPackagedSeed = 7;
  return spec.seed ? static_cast<std::uint64_t>(spec.seed) : kPackagedSeed;
}

bool has_checkpoint(const CaseSpec& spec) {
  const fs::path folder(without_text_prefix(spec.model));
  return fs::is_directory(folder) && golden::holds_checkpoint(folder.string());
}

std::shared_ptr<const Scenario> load_scenario(const CaseSpec& spec) {
  struct Entry {
    std::string key;
    std::shared_ptr<const Scenario> scenario;
  };
  static std::deque<Entry> kept;
  const std::string golden_file =
      spec.golden.empty() && spec.seed == 0 ? packaged_golden(spec.model, spec.batch) : spec.golden;
  const std::string key =
      (golden_file.empty() ? spec.model + "\n" + spec.batch + "\n" + std::to_string(spec.seed)
                           : golden_file) +
      "\n" + std::string(dtype_name(spec.dtype));
  for (const auto& entry : kept)
    if (entry.key == key) return entry.scenario;
  auto scenario = golden_file.empty() ? scenario_of_model(spec) : scenario_of_golden(golden_file);
  scenario->placements = scenarios::load_placements(scenario->config);
  for (const auto& [name, tensor] : scenario->host_weights)
    scenario->weights.emplace(name, alias_of(tensor).to(scalar_type_of(spec.dtype)));
  kept.push_back({key, scenario});
  if (kept.size() > 6) kept.pop_front();
  return scenario;
}

tolerance::Context context_of(const CaseSpec& spec, const Scenario& scenario) {
  tolerance::Context context;
  context.config = scenario.config, context.tokens = scenario.batch.tokens(), context.train = scenario.train;
  context.token_ids = scenario.batch.token_ids;
  context.dtype = spec.dtype;
  context.conditions = scenario.conditions, context.rounded_sides = scenario.rounded_sides;
  return context;
}

int steps_of(const CaseSpec& spec, const Scenario& scenario) {
  if (spec.rollout_mesh) return 0;
  return spec.steps >= 0 ? spec.steps : scenario.train.steps;
}

Expected::Expected(std::shared_ptr<const Scenario> scenario, const CaseSpec& spec, int steps)
    : scenario_(std::move(scenario)), terms_(parse_loss(spec.loss).reported()) {
  golden_gradients_ =
      !scenario_->golden.empty() && spec.loss == "token_mean" && scenario_->train.loss == "token_mean";
  if (!golden_covers(spec, steps)) reference_ = reference_results(*scenario_, spec, steps);
}

Expected::Expected(std::shared_ptr<const Scenario> scenario, const CaseSpec& spec,
                   const std::map<std::string, TensorView>& stored)
    : scenario_(std::move(scenario)), terms_(parse_loss(spec.loss).reported()), stored_(&stored) {}

bool Expected::golden_covers(const CaseSpec& spec, int steps) const {
  const auto& g = scenario_->golden;
  if (!golden_gradients_ || !g.count("logits") || !g.count("logprobs") || !g.count("grad_norm")) return false;
  for (const std::string& term : terms_)
    if (!g.count("loss/" + term) || !g.count("denominators/" + term)) return false;
  for (const auto& parameter : parameters_of(scenario_->config)) {
    if (!g.count("grads/" + parameter.name)) return false;
    for (int k = 1; k <= steps; ++k)
      if (!g.count("step" + std::to_string(k) + "/weights/" + parameter.name)) return false;
  }
  for (const auto& check : spec.checks)
    if (check == "activations") return false;
  return true;
}

bool Expected::of_this_loss(const std::string& key) const {
  if (key.rfind("grads_mtp/", 0) == 0) return false;  // the reference is proved with them
  for (const std::string prefix : {"loss/", "denominators/"})
    if (key.rfind(prefix, 0) == 0)
      return std::find(terms_.begin(), terms_.end(), key.substr(prefix.size())) != terms_.end();
  return true;
}

std::optional<TensorView> Expected::find(const std::string& key) const {
  if (!of_this_loss(key)) return std::nullopt;
  if (stored_) {
    const auto found = stored_->find(key);
    return found == stored_->end() ? std::nullopt : std::optional(found->second);
  }
  const std::string check = name_of(key).check;
  const bool of_loss = check == "grads" || check == "grad_norm" || check == "weights";
  if (!of_loss || golden_gradients_)
    if (const auto found = scenario_->golden.find(key); found != scenario_->golden.end())
      return found->second.view();
  if (reference_)
    if (const auto found = reference_->find(key); found != reference_->end()) return found->second.view();
  return std::nullopt;
}

std::string Expected::against(const std::string& key) const {
  const auto want = find(key);
  const auto found = scenario_->golden.find(key);
  const bool in_golden = found != scenario_->golden.end() && want;
  return in_golden && want->data == found->second.bytes.data() ? "golden" : "reference";
}

std::vector<std::string> Expected::keys() const {
  std::vector<std::string> keys;
  if (stored_)
    for (const auto& [key, tensor] : *stored_)
      if (find(key)) keys.push_back(key);
  for (const auto& [key, tensor] : scenario_->golden)
    if (find(key)) keys.push_back(key);
  if (reference_)
    for (const auto& [key, tensor] : *reference_)
      if (!scenario_->golden.count(key) || against(key) == "reference") keys.push_back(key);
  return keys;
}

}  // namespace meshparity::cli

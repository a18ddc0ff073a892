#include "harness/cli/verb_weights_ranks.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "golden/checkpoint_files.h"
#include "golden/dumps/patterns.h"
#include "golden/dumps/torch_weights.h"
#include "golden/weight_files.h"
#include "golden/weight_views.h"
#include "harness/layout/layout.h"
#include "harness/run/case_options.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

constexpr const char* kRankWord = "{rank}";

golden::WeightViews views_of_file(const std::string& path) {
  return dumps::is_torch_file(path) ? dumps::torch_weights(path) : golden::stored_views(path);
}

// One file a rank, in the order of the ranks.
std::vector<std::string> rank_files(const std::string& pattern, int world) {
  std::string steps = pattern;
  if (const auto at = steps.find(kRankWord); at != std::string::npos) steps.replace(at, 6, "{step}");
  std::vector<std::string> files;
  std::vector<dumps::StepFiles> found;
  try {
    found = dumps::find_steps(steps);
  } catch (const InputError& error) {  // in words of ranks
    std::string said = error.what();
    for (auto at = said.find("step"); at != std::string::npos; at = said.find("step", at + 4))
      if (at >= pattern.size()) said.replace(at, 4, "rank");
    throw InputError(said);
  }
  for (const dumps::StepFiles& rank : found) {
    if (rank.files.size() != 1)
      throw InputError(rank.name + ": is more than one file; one file a rank is read");
    // A single file has no number that differs from others'.
    if (rank.number != static_cast<std::int64_t>(files.size()) && world > 1)
      throw InputError(pattern + ": rank " + std::to_string(files.size()) + " has no file (the next one is " +
                       rank.files[0] + ")");
    files.push_back(rank.files[0]);
  }
  if (static_cast<int>(files.size()) != world)
    throw InputError(pattern + ": names " + std::to_string(files.size()) + " files, the mesh has " +
                     std::to_string(world) + " ranks");
  return files;
}

// No batch matters for parameters: one row of one token.
Batch batch_of_nothing() {
  Batch batch;
  batch.token_ids = {0}, batch.labels = {kIgnoreLabel};
  batch.document_offsets = {0, 1}, batch.row_offsets = {0, 1}, batch.micro_batch_offsets = {0, 1};
  return batch;
}

class Assembly {
 public:
  Assembly(const layout::LayoutMap& map, std::vector<golden::WeightViews> ranks,
           std::vector<std::string> files)
      : map_(map), ranks_(std::move(ranks)), files_(std::move(files)) {
    for (std::size_t rank = 0; rank < ranks_.size(); ++rank)
      for (const auto& [stored, view] : ranks_[rank].views) {
        const std::string name = golden::parameter_name_of(stored);
        if (!by_name_[name].emplace(static_cast<int>(rank), view).second)
          throw InputError(files_[rank], stored, "stands twice");
      }
  }

  RankWeights run() {
    golden::WeightSpill spill;
    std::set<std::string> known;
    for (const ParameterPlacement& parameter : map_.placements()) {
      known.insert(parameter.name);
      gather(parameter.name, spill);
    }
    for (const auto& [name, ranks] : by_name_)
      if (!known.count(name)) unknown(name, ranks.begin()->first);
    out_.set = golden::weights_of(std::to_string(ranks_.size()) + " ranks", spill.views());
    return std::move(out_);
  }

 private:
  void gather(const std::string& name, golden::WeightSpill& spill) {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) return;  // missing: the comparison says so
    std::vector<layout::RankTensor> locals;
    for (const auto& [rank, view] : found->second) locals.push_back({rank, view});
    const layout::Gathered gathered = layout::unshard(map_, "weights/" + name, locals);
    for (const std::string& line : gathered.invalid) wrong(line.substr(std::string("weights/").size()));
    if (gathered.replica_differ > 0)
      wrong(name + ": replicas differ in " + std::to_string(gathered.replica_differ) + " of " +
            std::to_string(gathered.replica_elements) + " elements that several ranks hold, first " +
            gathered.replica_where);
    if (gathered.uncovered > 0 && gathered.invalid.empty())
      wrong(name + ": " + std::to_string(gathered.uncovered) + " elements are held by no rank");
    spill.add(name, gathered.global.view());
    for (const golden::WeightViews& rank : ranks_) rank.forget();
  }

  void unknown(const std::string& name, int rank) {
    const std::string where = files_[static_cast<std::size_t>(rank)] + ": " + name;
    if (name == "lm_head.weight")
      out_.notes.push_back(where + ": the model ties it to the embedding; left out");
    else if (name.find(".experts.") != std::string::npos)
      throw InputError(where +
                       ": experts are stored one by one; per-rank files must hold them fused (gate_up_proj "
                       "[experts, 2 x width, hidden], down_proj [experts, hidden, width])");
    else
      wrong(where + ": the model has no such weight");
  }

  void wrong(std::string line) { out_.wrong.push_back(std::move(line)); }

  const layout::LayoutMap& map_;
  std::vector<golden::WeightViews> ranks_;
  std::vector<std::string> files_;
  std::map<std::string, std::map<int, TensorView>> by_name_;
  RankWeights out_;
};

}  // namespace

std::unique_ptr<WeightSet> open_whole_weights(const std::string& argument) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(argument, ignored) && dumps::is_torch_file(argument))
    return golden::weights_of(argument, dumps::torch_weights(argument));
  return golden::open_weights(argument);
}

bool names_ranks(const std::string& argument) {
  std::error_code ignored;
  return !std::filesystem::exists(argument, ignored) && argument.find_first_of("*?[{") != std::string::npos;
}

std::string model_of_weights(const std::string& argument) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  return fs::exists(fs::path(argument) / "config.json", ignored) ? argument : std::string();
}

RankWeights open_rank_weights(const std::string& pattern, const std::string& mesh_text,
                              const std::string& model) {
  const ModelConfig config = scenarios::load_model(model);
  const Mesh mesh = Mesh::parse(mesh_text);
  std::string why;
  const Flags flags = run::canonical_flags(mesh, Flags{}, &why);
  if (!why.empty()) throw InputError(mesh.text() + ": " + why);
  if (const std::string reason = refusal(mesh, flags, config); !reason.empty()) throw InputError(reason);
  const std::vector<std::string> files = rank_files(pattern, mesh.world());
  std::vector<golden::WeightViews> ranks;
  for (const std::string& file : files) ranks.push_back(views_of_file(file));
  const layout::LayoutMap map(config, mesh, flags, batch_of_nothing(), scenarios::load_placements(config));
  return Assembly(map, std::move(ranks), files).run();
}

}  // namespace meshparity::cli

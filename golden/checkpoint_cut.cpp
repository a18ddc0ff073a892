#include "golden/checkpoint_cut.h"

#include <map>
#include <set>

#include "golden/checkpoint_files.h"
#include "harness/types/error.h"

namespace meshparity::golden {
namespace {

// Every name under which a parameter of the model may be stored, with its shape: fused experts, and the same
// one by one.
std::map<std::string, Shape> storable(const ModelConfig& config) {
  std::map<std::string, Shape> shapes;
  for (const auto& p : parameters_of(config)) {
    shapes.emplace(p.name, p.shape);
    const auto add = [&](const char* fused, const char* one, Shape shape) {
      if (!p.name.ends_with(fused)) return;
      const std::string stem = p.name.substr(0, p.name.size() - std::string(fused).size());
      for (std::int64_t e = 0; e < p.shape[0]; ++e)
        shapes.emplace(stem + "experts." + std::to_string(e) + "." + one + ".weight", shape);
    };
    const std::int64_t width = config.moe_intermediate_size, hidden = config.hidden_size;
    add("experts.gate_up_proj", "gate_proj", {width, hidden});
    add("experts.gate_up_proj", "up_proj", {width, hidden});
    add("experts.down_proj", "down_proj", {hidden, width});
  }
  if (config.tie_word_embeddings)
    shapes.emplace("lm_head.weight", Shape{config.vocab_size, config.hidden_size});
  return shapes;
}

class Cutter {
 public:
  Cutter(const std::string& directory, const CheckpointCut& cut)
      : files_(directory), cut_(cut), from_(storable(cut.from)), to_(storable(cut.to)) {
    for (const StoredWeight& weight : files_.weights()) take(weight);
    for (const auto& p : parameters_of(cut.to)) require(p);
  }

  CutResult write(const std::string& file) {
    write_safetensors(file, kept_);
    result_.tensors = static_cast<std::int64_t>(kept_.size());
    return result_;
  }

 private:
  // Rows of dimension 0 that stay. `small`: what the weight's shape becomes.
  std::vector<Range> rows_kept(const std::string& name, const Shape& small) const {
    if (name == "model.embed_tokens.weight" || name == "lm_head.weight") return cut_.vocabulary;
    if (small.empty()) return {{0, 1}};
    return {{0, small[0]}};  // experts and their rows of the router: the first ones
  }

  void take(const StoredWeight& weight) {
    const std::string name = parameter_name_of(weight.stored);
    const auto known = from_.find(name);
    if (known == from_.end()) {
      // What its config says nothing of is left out, as by everybody who loads it.
      const bool not_configured = (name.starts_with("mtp.") && cut_.from.mtp_num_hidden_layers == 0) ||
                                  (name.starts_with("model.visual.") && !cut_.from.has_vision());
      if (!not_configured)
        throw InputError(weight.file->path(), weight.stored, "is no parameter of this model");
      ++result_.left_out;
      return;
    }
    const TensorView view = weight.file->view(weight.stored);
    if (view.shape != known->second)
      throw InputError(weight.file->path(), weight.stored,
                       "has shape " + shape_text(view.shape) + ", must be " + shape_text(known->second));
    if (!is_floating(view.dtype))
      throw InputError(weight.file->path(), weight.stored,
                       "has dtype " + std::string(dtype_name(view.dtype)) + ", must be a floating dtype");
    if (!seen_.insert(name).second) throw InputError(weight.file->path(), weight.stored, "stands twice");
    const auto kept = to_.find(name);
    if (kept == to_.end()) {
      ++result_.left_out;
      return;
    }
    TensorPieces tensor{weight.stored, view.dtype, kept->second, {}, weight.file};
    const std::size_t row = view.bytes() / static_cast<std::size_t>(view.shape.empty() ? 1 : view.shape[0]);
    for (const Range& rows : rows_kept(name, kept->second)) {
      const auto bytes = static_cast<std::size_t>(rows.size()) * row;
      tensor.pieces.emplace_back(view.data + static_cast<std::size_t>(rows.begin) * row, bytes);
      result_.bytes += static_cast<std::int64_t>(bytes);
    }
    kept_.push_back(std::move(tensor));
  }

  void require(const ParameterInfo& p) const {
    if (seen_.count(p.name)) return;
    std::string missing = p.name;
    const auto one_by_one = [&](const char* fused, std::initializer_list<const char*> parts) {
      if (!p.name.ends_with(fused)) return;
      missing.clear();
      const std::string stem = p.name.substr(0, p.name.size() - std::string(fused).size());
      for (std::int64_t e = 0; e < p.shape[0] && missing.empty(); ++e)
        for (const char* part : parts)
          if (const std::string name = stem + "experts." + std::to_string(e) + "." + part + ".weight";
              !seen_.count(name) && missing.empty())
            missing = e == 0 ? p.name : name;
    };
    one_by_one("experts.gate_up_proj", {"gate_proj", "up_proj"});
    one_by_one("experts.down_proj", {"down_proj"});
    if (!missing.empty()) throw InputError(files_.directory(), missing, "is missing");
  }

  CheckpointFiles files_;
  const CheckpointCut& cut_;
  std::map<std::string, Shape> from_, to_;
  std::set<std::string> seen_;
  std::vector<TensorPieces> kept_;
  CutResult result_;
};

}  // namespace

CutResult cut_checkpoint(const std::string& directory, const CheckpointCut& cut, const std::string& file) {
  return Cutter(directory, cut).write(file);
}

}  // namespace meshparity::golden

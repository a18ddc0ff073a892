#include "golden/checkpoint.h"

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "golden/checkpoint_files.h"
#include "golden/safetensors.h"
#include "golden/store.h"
#include "harness/types/atomic_file.h"
#include "harness/types/error.h"

namespace meshparity::golden {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

bool starts_with(const std::string& text, const std::string& prefix) {
  return text.rfind(prefix, 0) == 0;
}

using Place = StoredWeight;

class Checkpoint {
 public:
  Checkpoint(const std::string& directory, const ModelConfig& config)
      : files_(directory), vision_(config.has_vision()), mtp_(config.mtp_num_hidden_layers > 0) {
    for (const Place& weight : files_.weights()) add(weight);
  }

  // The place of a parameter; its file is null where there is none.
  Place take(const std::string& name) {
    const auto found = places_.find(name);
    if (found == places_.end()) return {};
    used_.insert(name);
    return found->second;
  }

  // Everything must have been taken.
  void check_all_used() const {
    for (const auto& [name, place] : places_)
      if (!used_.count(name))
        throw InputError(place.file->path(), place.stored, "is no parameter of this model");
  }
  const std::string& directory() const { return files_.directory(); }

 private:
  void add(const Place& weight) {
    // What this configuration of the model has not: a text model's directory may be a multimodal one's.
    if (!vision_ && starts_with(weight.stored, "model.visual.")) return;
    if (!mtp_ && starts_with(weight.stored, "mtp.")) return;
    if (!places_.emplace(parameter_name_of(weight.stored), weight).second)
      throw InputError(weight.file->path(), weight.stored, "stands twice");
  }

  CheckpointFiles files_;
  bool vision_, mtp_;
  std::map<std::string, Place> places_;
  std::set<std::string> used_;
};

TensorView view_of(const Place& place, const Shape& want) {
  const TensorView view = place.file->view(place.stored);
  if (view.shape != want)
    throw InputError(place.file->path(), place.stored,
                     "has shape " + shape_text(view.shape) + ", must be " + shape_text(want));
  if (!is_floating(view.dtype))
    throw InputError(place.file->path(), place.stored,
                     "has dtype " + std::string(dtype_name(view.dtype)) + ", must be a floating dtype");
  return view;
}

// Copies one expert's matrix to its place in the fused tensor, which takes its dtype from the first.
class Fused {
 public:
  explicit Fused(const Shape& shape) : shape_(shape) {}
  void put(const Place& place, const Shape& want, std::int64_t offset) {
    const TensorView view = view_of(place, want);
    if (!tensor_) tensor_ = HostTensor::zeros(view.dtype, shape_);
    if (view.dtype != tensor_->dtype)
      throw InputError(place.file->path(), place.stored,
                       "has dtype " + std::string(dtype_name(view.dtype)) + ", other experts of its layer " +
                           std::string(dtype_name(tensor_->dtype)));
    std::memcpy(tensor_->bytes.data() + static_cast<std::size_t>(offset) * dtype_size(view.dtype), view.data,
                view.bytes());
  }
  HostTensor take() { return std::move(*tensor_); }

 private:
  Shape shape_;
  std::optional<HostTensor> tensor_;
};

Place expert(Checkpoint& checkpoint, const std::string& prefix, std::int64_t e, const char* matrix) {
  const std::string name = prefix + std::to_string(e) + "." + matrix + ".weight";
  Place place = checkpoint.take(name);
  if (!place.file) throw InputError(checkpoint.directory(), name, "is missing");
  return place;
}

// experts.<e>.{gate,up}_proj.weight [F,D] -> experts.gate_up_proj [E,2F,D], gate rows above up rows.
HostTensor merge_gate_up(Checkpoint& checkpoint, const std::string& prefix, const Shape& shape) {
  const std::int64_t width = shape[1] / 2, hidden = shape[2];
  Fused fused(shape);
  for (std::int64_t e = 0; e < shape[0]; ++e) {
    fused.put(expert(checkpoint, prefix, e, "gate_proj"), {width, hidden}, 2 * e * width * hidden);
    fused.put(expert(checkpoint, prefix, e, "up_proj"), {width, hidden}, (2 * e + 1) * width * hidden);
  }
  return fused.take();
}

// experts.<e>.down_proj.weight [D,F] -> experts.down_proj [E,D,F].
HostTensor merge_down(Checkpoint& checkpoint, const std::string& prefix, const Shape& shape) {
  Fused fused(shape);
  for (std::int64_t e = 0; e < shape[0]; ++e)
    fused.put(expert(checkpoint, prefix, e, "down_proj"), {shape[1], shape[2]}, e * shape[1] * shape[2]);
  return fused.take();
}

HostTensor load_parameter(Checkpoint& checkpoint, const ParameterInfo& parameter) {
  if (const Place place = checkpoint.take(parameter.name); place.file)
    return HostTensor::copy_of(view_of(place, parameter.shape));
  const auto stem = [&](const std::string& end) {
    const auto at = parameter.name.rfind(end);
    return at != std::string::npos && at + end.size() == parameter.name.size() ? parameter.name.substr(0, at)
                                                                               : std::string();
  };
  if (const std::string prefix = stem("experts.gate_up_proj"); !prefix.empty())
    return merge_gate_up(checkpoint, prefix + "experts.", parameter.shape);
  if (const std::string prefix = stem("experts.down_proj"); !prefix.empty())
    return merge_down(checkpoint, prefix + "experts.", parameter.shape);
  throw InputError(checkpoint.directory(), parameter.name, "is missing");
}

// The name of a parameter in the checkpoint of a multimodal model.
std::string multimodal_name(const std::string& name) {
  const bool text = starts_with(name, "model.") && !starts_with(name, "model.visual.");
  return text ? "model.language_model." + name.substr(6) : name;
}

void make_directory(const std::string& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) throw InputError(directory + ": cannot be made: " + error.message());
}

}  // namespace

std::map<std::string, HostTensor> load_checkpoint(const std::string& directory, const ModelConfig& config) {
  Checkpoint checkpoint(directory, config);
  std::map<std::string, HostTensor> weights;
  for (const auto& parameter : parameters_of(config))
    weights.emplace(parameter.name, load_parameter(checkpoint, parameter));
  if (config.tie_word_embeddings)
    if (const Place head = checkpoint.take("lm_head.weight"); head.file) {
      const HostTensor& table = weights.at("model.embed_tokens.weight");
      const TensorView view = view_of(head, table.shape);
      if (view.dtype != table.dtype || std::memcmp(view.data, table.bytes.data(), table.bytes.size()) != 0)
        throw InputError(head.file->path(), head.stored,
                         "differs from model.embed_tokens.weight, to which config.json ties it");
    }
  checkpoint.check_all_used();
  return weights;
}

void save_checkpoint(const std::string& directory, const std::string& config_json,
                     const std::map<std::string, HostTensor>& weights) {
  make_directory(directory);
  const json config = json::parse(config_json, nullptr, false);
  const bool multimodal = config.is_object() && config.contains("text_config");
  std::map<std::string, HostTensor> renamed;
  if (multimodal)
    for (const auto& [name, tensor] : weights) renamed.emplace(multimodal_name(name), tensor);
  write_safetensors((fs::path(directory) / "model.safetensors").string(), multimodal ? renamed : weights);
  write_atomically((fs::path(directory) / "config.json").string(), config_json.data(), config_json.size());
}

void export_batch(const std::string& directory, const Batch& batch) {
  make_directory(directory);
  write_safetensors((fs::path(directory) / "batch.safetensors").string(), inputs_of(batch));
}

}  // namespace meshparity::golden

#include "golden/store.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "golden/guard.h"
#include "golden/hdf5_io.h"
#include "golden/schema.h"
#include "harness/types/atomic_file.h"
#include "harness/types/error.h"

namespace meshparity::golden {
namespace {

using nlohmann::json;

std::vector<std::int64_t> input(const Store& store, const std::string& name) {
  const std::string path = "inputs/" + name;
  const auto found = store.tensors.find(path);
  if (found == store.tensors.end()) throw InputError(store.file, path, "is missing");
  if (found->second.dtype != DType::int64)
    throw InputError(store.file, path,
                     "has dtype " + std::string(dtype_name(found->second.dtype)) + ", must be int64");
  return found->second.to_int64();
}

// Empty where the file holds none.
std::vector<double> real_input(const Store& store, const std::string& name) {
  std::vector<double> values;
  const auto found = store.tensors.find("inputs/" + name);
  if (found == store.tensors.end()) return values;
  const TensorView view = found->second.view();
  for (std::int64_t i = 0; i < view.numel(); ++i) values.push_back(view.at(i));
  return values;
}

// The images or videos of the batch: grids [n, 3] and one row of pixels per patch, both or neither.
VisionInput vision_input(const Store& store, const std::string& pixels, const std::string& grids) {
  VisionInput sight;
  const bool has_pixels = store.has("inputs/" + pixels), has_grids = store.has("inputs/" + grids);
  if (has_pixels != has_grids)
    throw InputError(store.file, "inputs/" + (has_pixels ? grids : pixels),
                     "is missing, and " + (has_pixels ? pixels : grids) + " is there");
  if (!has_grids) return sight;
  const std::vector<std::int64_t> sizes = input(store, grids);
  for (std::size_t i = 0; i + 2 < sizes.size(); i += 3) {
    const Grid grid = {sizes[i], sizes[i + 1], sizes[i + 2]};
    constexpr std::int64_t kMost = std::int64_t{1} << 20;
    for (const std::int64_t size : grid)
      if (size < 1 || size > kMost)
        throw InputError(store.file, "inputs/" + grids,
                         "entry " + std::to_string(i / 3) + " holds " + std::to_string(size) +
                             ", must be from 1 to " + std::to_string(kMost));
    sight.grids.push_back(grid);
  }
  const std::int64_t rows = store.tensors.at("inputs/" + pixels).shape.at(0);
  if (rows != sight.patches())
    throw InputError(store.file, "inputs/" + pixels,
                     "has " + std::to_string(rows) + " rows; " + grids + " has " +
                         std::to_string(sight.patches()) + " patches");
  sight.pixels = real_input(store, pixels);
  return sight;
}

// "tiny-dense.packed-odd.h5" -> "packed-odd": packaged goldens are called <model>.<batch>.h5.
std::string batch_name(const Store& store) {
  if (const auto named = store.attributes.find("batch"); named != store.attributes.end())
    return named->second;
  const std::string stem = std::filesystem::path(store.file).stem().string();
  const auto dot = stem.find('.');
  return dot == std::string::npos ? stem : stem.substr(dot + 1);
}

}  // namespace

Store read(const std::string& path, Kind kind) {
  try {
    RawContent content = read_guarded(path);
    verify_hashes(content, kind);
    check_schema(content.store, kind);
    return std::move(content.store);
  } catch (const InputError& error) {
    const std::string message = error.what();
    if (kind == Kind::dump || message.find("damaged") == std::string::npos) throw;
    throw InputError(message + "; restore it, or make it anew with './meshparity golden regenerate'");
  }
}

void write(const std::string& path, const Store& store) {
  Store whole = store;
  whole.file = path;
  whole.attributes["schema"] = std::to_string(kSchema);
  whole.attributes["content_sha256"] = content_hash(whole);
  for (const auto& [name, tensor] : whole.tensors)
    if (tensor.bytes.size() != static_cast<std::size_t>(tensor.numel()) * dtype_size(tensor.dtype))
      throw InputError(path, name,
                       "holds " + std::to_string(tensor.bytes.size()) + " bytes, which is not shape " +
                           shape_text(tensor.shape));
  const std::vector<std::byte> image = hdf5_image(whole);
  write_atomically(path, image.data(), image.size());
}

Batch batch_of(const Store& store) {
  Batch batch;
  batch.name = batch_name(store);
  batch.token_ids = input(store, "token_ids");
  batch.labels = input(store, "labels");
  batch.document_offsets = input(store, "document_offsets");
  batch.row_offsets = input(store, "row_offsets");
  if (store.has("inputs/micro_batch_offsets"))
    batch.micro_batch_offsets = input(store, "micro_batch_offsets");
  else
    batch.micro_batch_offsets = {0, batch.rows()};
  if (store.has("inputs/position_ids")) batch.position_ids = input(store, "position_ids");
  batch.images = vision_input(store, "pixel_values", "image_grid_thw");
  batch.videos = vision_input(store, "pixel_values_videos", "video_grid_thw");
  batch.advantages = real_input(store, "advantages"), batch.old_logprobs = real_input(store, "old_logprobs");
  const std::int64_t vocab = vocab_of(store);
  batch.validate(store.file, vocab > 0 ? vocab : std::numeric_limits<std::int64_t>::max());
  return batch;
}

std::map<std::string, HostTensor> inputs_of(const Batch& batch) {
  std::map<std::string, HostTensor> inputs;
  const auto put = [&](const char* name, Shape shape, const auto& values, DType dtype) {
    if (values.empty()) return;
    HostTensor tensor = HostTensor::zeros(dtype, std::move(shape));
    std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
    inputs.emplace(name, std::move(tensor));
  };
  const auto integers = [&](const char* name, const std::vector<std::int64_t>& values) {
    put(name, {static_cast<std::int64_t>(values.size())}, values, DType::int64);
  };
  integers("token_ids", batch.token_ids), integers("labels", batch.labels);
  integers("document_offsets", batch.document_offsets), integers("row_offsets", batch.row_offsets);
  integers("micro_batch_offsets", batch.micro_batch_offsets);
  put("position_ids", {3, batch.tokens()}, batch.position_ids, DType::int64);
  put("advantages", {batch.tokens()}, batch.advantages, DType::float64);
  put("old_logprobs", {batch.tokens()}, batch.old_logprobs, DType::float64);
  const auto vision = [&](const char* pixels, const char* grids, const VisionInput& input) {
    if (input.empty()) return;
    const auto values = static_cast<std::int64_t>(input.pixels.size());
    put(pixels, {input.patches(), values / input.patches()}, input.pixels, DType::float64);
    std::vector<std::int64_t> sizes;
    for (const Grid& grid : input.grids) sizes.insert(sizes.end(), grid.begin(), grid.end());
    put(grids, {static_cast<std::int64_t>(input.grids.size()), 3}, sizes, DType::int64);
  };
  vision("pixel_values", "image_grid_thw", batch.images);
  vision("pixel_values_videos", "video_grid_thw", batch.videos);
  return inputs;
}

TrainSpec train_of(const Store& store) {
  TrainSpec train;
  train.steps = steps_of(store);
  const auto found = store.strings.find("train");
  if (found == store.strings.end()) {
    if (train.steps > 0) throw InputError(store.file, "train", "is missing, and expected/step1 needs it");
    return train;
  }
  const json text = json::parse(found->second, nullptr, false);
  if (!text.is_object()) throw InputError(store.file, "train", "is not a JSON object");
  const auto fail = [&](const std::string& field, const std::string& what) {
    throw InputError(store.file, "train: " + field, what);
  };
  const auto number = [&](const json& holder, const std::string& field, double least, double most) {
    if (!holder.is_number()) fail(field, "must be a number");
    const double value = holder.get<double>();
    if (!(value >= least && value <= most)) {
      char range[80];
      std::snprintf(range, sizeof range, "must lie between %g and %g", least, most);
      fail(field, range);
    }
    return value;
  };
  constexpr double kTiny = std::numeric_limits<double>::min(), kHuge = std::numeric_limits<double>::max();
  for (const auto& [field, value] : text.items()) {
    if (field == "loss") {
      if (!value.is_string()) fail(field, "must be a string");
      train.loss = value.get<std::string>();
      bool known = false;
      for (const char* policy : kLossPolicies) known |= train.loss == policy;
      if (!known) fail(field, "'" + train.loss.substr(0, 40) + "' is no loss policy");
    } else if (field == "lr") {
      // The bound on weights is derived for learning rates up to 1e-3.
      train.lr = number(value, field, kTiny, 1e-3);
    } else if (field == "betas") {
      if (!value.is_array() || value.size() != 2) fail(field, "must be two numbers");
      constexpr double kBelowOne = 1 - 0x1p-53;
      train.beta1 = number(value[0], field, 0, kBelowOne);
      train.beta2 = number(value[1], field, 0, kBelowOne);
    } else if (field == "eps") {
      train.eps = number(value, field, kTiny, 1);
    } else if (field == "weight_decay") {
      train.weight_decay = number(value, field, 0, kHuge);
    } else if (field == "max_grad_norm") {
      train.max_grad_norm = number(value, field, kTiny, kHuge);
    } else if (field == "num_tokens") {
      train.num_tokens = number(value, field, kTiny, kHuge);
    } else {
      fail(field.substr(0, 40), "is unknown");
    }
  }
  for (const char* field : {"loss", "lr", "betas", "eps", "weight_decay", "max_grad_norm", "num_tokens"})
    if (!text.contains(field)) fail(field, "is missing");
  return train;
}

}  // namespace meshparity::golden

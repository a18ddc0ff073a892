#include "golden/checkpoint_files.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "harness/types/error.h"

namespace meshparity::golden {
namespace {

constexpr std::uintmax_t kIndexBytes = std::uintmax_t{64} << 20;
constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

bool is_there(const std::string& directory, const char* file) {
  std::error_code ignored;
  return std::filesystem::exists(std::filesystem::path(directory) / file, ignored);
}

}  // namespace

CheckpointFiles::CheckpointFiles(const std::string& directory) : directory_(directory) {
  const std::filesystem::path folder(directory);
  if (is_there(directory, kIndexFile))
    open_index((folder / kIndexFile).string());
  else if (is_there(directory, kSingleFile))
    open_single((folder / kSingleFile).string());
  else
    throw InputError(directory + ": holds neither " + kSingleFile + " nor " + kIndexFile);
}

void CheckpointFiles::open_single(const std::string& file) {
  files_.push_back(std::make_unique<SafetensorsFile>(file));
  for (const auto& name : files_.back()->names()) weights_.push_back({files_.back().get(), name});
}

void CheckpointFiles::open_index(const std::string& index) {
  std::error_code ignored;
  if (std::filesystem::file_size(index, ignored) > kIndexBytes)
    throw InputError(index + ": is larger than 64 MiB");
  std::ifstream stream(index);
  const nlohmann::json text = nlohmann::json::parse(stream, nullptr, false);
  if (!text.is_object() || !text.contains("weight_map") || !text["weight_map"].is_object())
    throw InputError(index, "weight_map", "is missing or not a JSON object");
  std::map<std::string, const SafetensorsFile*> opened;
  for (const auto& [name, file] : text["weight_map"].items()) {
    const std::string part = file.is_string() ? file.get<std::string>() : "";
    // A file of the same directory: an index from elsewhere must not reach out of it.
    if (part.empty() || part.find('/') != std::string::npos || part == "..")
      throw InputError(index, name.substr(0, 200), "names no file of this directory");
    auto& handle = opened[part];
    if (!handle) {
      files_.push_back(
          std::make_unique<SafetensorsFile>((std::filesystem::path(directory_) / part).string()));
      handle = files_.back().get();
    }
    if (!handle->has(name))
      throw InputError(handle->path(), name.substr(0, 200), "is missing, the index names it");
    weights_.push_back({handle, name});
  }
}

void CheckpointFiles::forget() const {
  for (const auto& file : files_) file->forget();
}

bool holds_checkpoint(const std::string& directory) {
  if (is_there(directory, kIndexFile) || is_there(directory, kSingleFile)) return true;
  // Half a download or another format: whoever named it means these weights and no others.
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored))
    for (const char* ending : {".safetensors", ".bin", ".pt", ".pth"})
      if (entry.path().extension() == ending)
        throw InputError(directory + ": holds " + entry.path().filename().string() + ", but neither " +
                         kSingleFile + " nor " + kIndexFile);
  return false;
}

bool holds_multi_token_prediction(const std::string& directory) {
  const CheckpointFiles files(directory);
  for (const StoredWeight& weight : files.weights())
    if (weight.stored.rfind("mtp.", 0) == 0) return true;
  return false;
}

std::string parameter_name_of(const std::string& stored) {
  static const std::string kInfix = "model.language_model.";
  return stored.rfind(kInfix, 0) == 0 ? "model." + stored.substr(kInfix.size()) : stored;
}

}  // namespace meshparity::golden

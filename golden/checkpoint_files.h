// The safetensors files of a Hugging Face directory, opened in place, and which weight lies in which.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "golden/safetensors.h"

namespace meshparity::golden {

// Where a weight lies. Its name in the file may differ from the parameter's.
struct StoredWeight {
  const SafetensorsFile* file = nullptr;
  std::string stored;
};

class CheckpointFiles {
 public:
  // Opens model.safetensors, or the files named by model.safetensors.index.json. Throws InputError naming the
  // file, and the weight where one is at fault: neither is there, a file of the index is missing or damaged
  // or lacks a weight that the index gives it, the index reaches out of the directory.
  explicit CheckpointFiles(const std::string& directory);

  const std::string& directory() const { return directory_; }
  const std::vector<StoredWeight>& weights() const { return weights_; }
  // As SafetensorsFile::forget, of every file.
  void forget() const;

 private:
  void open_single(const std::string& file);
  void open_index(const std::string& index);
  std::string directory_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<StoredWeight> weights_;
};

// Has the directory a checkpoint, or only a config.json? Throws InputError naming a file of weights where it
// has one, but not under a name by which a checkpoint is opened.
bool holds_checkpoint(const std::string& directory);

// Does a checkpoint hold anything of multi-token prediction? transformers keeps the field of the config and
// saves none of the weights.
bool holds_multi_token_prediction(const std::string& directory);

// The name of a stored weight without the multimodal class's infix (docs/decisions/0005).
std::string parameter_name_of(const std::string& stored);

}  // namespace meshparity::golden

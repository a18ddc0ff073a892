#include "golden/weight_files.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "golden/checkpoint_files.h"
#include "golden/store.h"
#include "golden/weight_views.h"

namespace meshparity::golden {
namespace {

// One expert's matrix, or a whole tensor, where it lies.
struct Part {
  WeightSet::Entry entry;
  TensorView view;
};

// "x.experts.gate_up_proj" [E, 2F, D] is E times gate_proj and up_proj [F, D]; "x.experts.down_proj" [E, D,
// F] E times down_proj. Everything else is itself.
void add_parts(const std::string& stored, const TensorView& view, std::vector<Part>& parts) {
  const std::string name = parameter_name_of(stored);
  const bool gate_up = name.ends_with(".experts.gate_up_proj"), down = name.ends_with(".experts.down_proj");
  if ((!gate_up && !down) || view.shape.size() != 3 || (gate_up && view.shape[1] % 2)) {
    parts.push_back({{name, stored, view.dtype, view.shape}, view});
    return;
  }
  const std::string stem = name.substr(0, name.rfind('.') + 1);
  const std::int64_t halves = gate_up ? 2 : 1, rows = view.shape[1] / halves, columns = view.shape[2];
  const std::size_t bytes = static_cast<std::size_t>(rows * columns) * dtype_size(view.dtype);
  for (std::int64_t e = 0; e < view.shape[0]; ++e)
    for (std::int64_t h = 0; h < halves; ++h) {
      const char* which = down ? "down_proj" : h == 0 ? "gate_proj" : "up_proj";
      const std::string part = stem + std::to_string(e) + "." + which + ".weight";
      const TensorView one{view.dtype, {rows, columns}, view.data + bytes * (e * halves + h)};
      parts.push_back({{part, stored + "[" + std::to_string(e) + "]", view.dtype, one.shape}, one});
    }
}

class Parts : public WeightSet {
 public:
  TensorView view(std::size_t entry) const override { return parts_[entry].view; }

 protected:
  explicit Parts(const std::string& origin) : WeightSet(origin) {}
  void take(std::vector<Part> parts) {
    std::stable_sort(parts.begin(), parts.end(),
                     [](const Part& a, const Part& b) { return a.entry.name < b.entry.name; });
    parts_ = std::move(parts);
    std::vector<Entry> entries;
    for (const Part& part : parts_) entries.push_back(part.entry);
    set_entries(std::move(entries));
    if (parts_.empty()) throw InputError(origin() + ": holds no weight");
  }

 private:
  std::vector<Part> parts_;
};

class DirectoryWeights : public Parts {
 public:
  explicit DirectoryWeights(const std::string& directory) : Parts(directory), files_(directory) {
    std::vector<Part> parts;
    for (const StoredWeight& weight : files_.weights())
      add_parts(weight.stored, weight.file->view(weight.stored), parts);
    take(std::move(parts));
  }
  void forget() const override { files_.forget(); }

 private:
  CheckpointFiles files_;
};

class FileWeights : public Parts {
 public:
  explicit FileWeights(const std::string& path) : Parts(path), file_(path) {
    std::vector<Part> parts;
    for (const std::string& name : file_.names()) add_parts(name, file_.view(name), parts);
    take(std::move(parts));
  }
  void forget() const override { file_.forget(); }

 private:
  SafetensorsFile file_;
};

class StoreWeights : public Parts {
 public:
  StoreWeights(const std::string& origin, const std::string& path, const std::string& group)
      : Parts(origin), store_(read(path, Kind::dump)) {
    std::vector<Part> parts;
    for (const auto& [name, tensor] : store_.tensors)
      if (name.rfind(group, 0) == 0) add_parts(name.substr(group.size()), tensor.view(), parts);
    if (parts.empty()) throw InputError(path, "/" + group, "holds no weight");
    take(std::move(parts));
  }

 private:
  Store store_;
};

class ViewedWeights : public Parts {
 public:
  ViewedWeights(const std::string& origin, WeightViews views) : Parts(origin), views_(std::move(views)) {
    std::vector<Part> parts;
    for (const auto& [name, view] : views_.views) add_parts(name, view, parts);
    take(std::move(parts));
  }
  void forget() const override { views_.forget(); }

 private:
  WeightViews views_;
};

bool starts_as_hdf5(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  char magic[8] = {};
  in.read(magic, sizeof magic);
  return in && std::string(magic, 8) == "\x89HDF\r\n\x1a\n";
}

}  // namespace

std::unique_ptr<WeightSet> weights_of(const std::string& origin, WeightViews views) {
  return std::make_unique<ViewedWeights>(origin, std::move(views));
}

std::unique_ptr<WeightSet> open_weights(const std::string& argument) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  std::string path = argument, group = "weights/";
  const auto colon = argument.rfind(':');
  if (!fs::exists(path, ignored) && colon != std::string::npos &&
      argument.compare(colon + 1, 4, "step") == 0) {
    path = argument.substr(0, colon);
    group = "expected/" + argument.substr(colon + 1) + "/weights/";
  }
  if (!fs::exists(path, ignored)) throw InputError(argument + ": no such file or directory");
  if (fs::is_directory(path, ignored)) return std::make_unique<DirectoryWeights>(path);
  if (starts_as_hdf5(path)) return std::make_unique<StoreWeights>(argument, path, group);
  return std::make_unique<FileWeights>(path);
}

}  // namespace meshparity::golden

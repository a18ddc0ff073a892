// What the tests of this folder share: a temporary folder, whole files in memory, a small golden and its
// equality.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "golden/store.h"
#include "harness/types/error.h"

namespace meshparity::golden {

// Removed with everything in it when the test ends.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "meshparity-golden-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw RunError("no temporary folder");
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::size_t entries() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(path_), std::filesystem::directory_iterator()));
  }

 private:
  std::filesystem::path path_;
};

inline std::string slurp(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

inline void spill(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// The message of the InputError that `call` must throw; "" if it throws none.
template <class Call>
std::string input_error(Call call) {
  try {
    call();
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

inline HostTensor reals(Shape shape, double first) {
  HostTensor tensor = HostTensor::zeros(DType::float64, std::move(shape));
  for (std::int64_t i = 0; i < tensor.numel(); ++i)
    tensor.as<double>()[i] = first + 0.37 * static_cast<double>(i);
  return tensor;
}

inline HostTensor integers(const std::vector<std::int64_t>& values) {
  return HostTensor::from_int64({static_cast<std::int64_t>(values.size())}, values);
}

// Seven tokens in documents of 3, 1 and 3 tokens, two rows, two micro-batches; two weights and one step.
inline Store small_golden() {
  Store store;
  store.attributes = {{"schema", "1"}, {"seed", "7"}, {"generator", "test"}, {"reason", "first"}};
  store.strings["config"] = R"({"model_type": "qwen3_5_text", "vocab_size": 5, "hidden_size": 2})";
  store.strings["train"] = R"({"loss": "token_mean", "lr": 0.001, "betas": [0.9, 0.95], "eps": 1e-6,)"
                           R"( "weight_decay": 0.1, "max_grad_norm": 0.5, "num_tokens": 100})";
  auto& t = store.tensors;
  t["inputs/token_ids"] = integers({0, 1, 2, 3, 4, 0, 1});
  t["inputs/labels"] = integers({1, 2, -100, -100, 0, -100, -100});
  t["inputs/document_offsets"] = integers({0, 3, 4, 7});
  t["inputs/row_offsets"] = integers({0, 2, 3});
  t["inputs/micro_batch_offsets"] = integers({0, 1, 2});
  t["weights/model.embed_tokens.weight"] = reals({5, 2}, 0.5);
  t["weights/model.norm.weight"] = reals({2}, -1);
  t["expected/logits"] = reals({7, 5}, 3);
  t["expected/logprobs"] = reals({7}, -2);
  t["expected/loss/token_mean"] = HostTensor::scalar(1.25);
  t["expected/denominators/token_mean"] = HostTensor::scalar(3);
  t["expected/denominators/sequence_mean"] = reals({3}, 1);
  t["expected/denominators/micro_batch_mean"] = reals({2}, 1);
  t["expected/grad_norm"] = HostTensor::scalar(0.75);
  t["expected/grads/model.embed_tokens.weight"] = reals({5, 2}, 0.1);
  t["expected/grads/model.norm.weight"] = reals({2}, 0.2);
  t["expected/step1/weights/model.embed_tokens.weight"] = reals({5, 2}, 0.4);
  t["expected/step1/weights/model.norm.weight"] = reals({2}, -1.1);
  return store;
}

inline bool equal(const HostTensor& a, const HostTensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && a.bytes == b.bytes;
}

inline bool same_content(const Store& a, const Store& b) {
  if (a.strings != b.strings || a.tensors.size() != b.tensors.size()) return false;
  for (const auto& [path, tensor] : a.tensors) {
    const auto other = b.tensors.find(path);
    if (other == b.tensors.end() || !equal(tensor, other->second)) return false;
  }
  return true;
}

}  // namespace meshparity::golden

// Dumps made from packaged goldens, and meshparity-judge compare run on them as a user runs it.
#pragma once

#include <catch2/catch.hpp>

#include "golden/store.h"
#include "harness/cli/command_fixture.h"
#include "reports/report.h"

namespace meshparity::cli::compare_test {

inline const std::string kGolden = MESHPARITY_SOURCE_DIR "/golden/data/tiny-dense.packed-odd.h5";
inline const std::string kMoeGolden = MESHPARITY_SOURCE_DIR "/golden/data/tiny-moe.packed-odd.h5";
inline const std::string kStepsGolden = MESHPARITY_SOURCE_DIR "/golden/data/tiny-dense.rows.h5";
inline constexpr const char* kScale = "loss/gradient_scale/token_mean";
inline constexpr const char* kGrad = "model.layers.3.self_attn.k_proj.weight";

inline const golden::Store& golden_store(const std::string& file) {
  static std::map<std::string, golden::Store> stores;
  auto found = stores.find(file);
  if (found == stores.end()) found = stores.emplace(file, golden::read(file, golden::Kind::golden)).first;
  return found->second;
}

// What a trainer writes: the results and the inputs it read, no weights, no hashes of another file.
inline golden::Store trainer_dump(const std::string& file) {
  golden::Store dump;
  for (const auto& [path, tensor] : golden_store(file).tensors)
    if (path.rfind("weights/", 0) != 0 && path.find("step") == std::string::npos)
      dump.tensors.emplace(path, tensor);
  return dump;
}

// The same, computed in float32.
inline golden::Store in_float32(golden::Store dump) {
  for (auto& [path, tensor] : dump.tensors) {
    if (tensor.dtype != DType::float64) continue;
    HostTensor narrow = HostTensor::zeros(DType::float32, tensor.shape);
    for (std::int64_t i = 0; i < tensor.numel(); ++i)
      narrow.as<float>()[i] = static_cast<float>(tensor.as<double>()[i]);
    tensor = narrow;
  }
  return dump;
}

// Judges a dump and keeps what was printed and the verdicts.
struct Judged {
  Finished finished;
  reports::Run run;
  const CheckResult* find(const std::string& tensor) const {
    for (const auto& check : run.cases.at(0).checks)
      if (check.tensor == tensor) return &check;
    return nullptr;
  }
  State state_of(const std::string& tensor) const {
    const CheckResult* check = find(tensor);
    return check ? check->state : State::error;
  }
};

inline Judged judge(const golden::Store& dump, std::vector<std::string> more = {},
                    const std::string& golden_file = kGolden) {
  const ScratchFolder folder;
  golden::write(folder.file("dump.h5"), dump);
  std::vector<std::string> argv = {
      MESHPARITY_JUDGE,          "compare", "--golden", golden_file, folder.file("dump.h5"), "--json",
      folder.file("result.json")};
  argv.insert(argv.end(), more.begin(), more.end());
  Judged judged;
  judged.finished = execute(argv);
  INFO(judged.finished.out << judged.finished.err);
  REQUIRE(judged.finished.code < 2);
  CHECK(judged.finished.err.empty());
  judged.run = reports::from_json(slurp(folder.file("result.json")), "result.json");
  return judged;
}

inline std::string grads(const std::string& name) {
  return "expected/grads/" + name;
}

}  // namespace meshparity::cli::compare_test

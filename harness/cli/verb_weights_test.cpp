// meshparity weights, run as a user runs it: directories, files and goldens beside each other, and bad input.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "golden/checkpoint.h"
#include "golden/safetensors.h"
#include "golden/store.h"
#include "golden/weight_files.h"
#include "harness/cli/command_fixture.h"
#include "scenarios/initial_weights.h"
#include "scenarios/load.h"

namespace meshparity::cli::verb_weights_test {
namespace {

using Weights = std::map<std::string, HostTensor>;

Finished weights(std::vector<std::string> words) {
  words.insert(words.begin(), {MESHPARITY_JUDGE, "weights"});
  return execute(words);
}

std::string golden_file(const std::string& name) {
  return std::string(MESHPARITY_SOURCE_DIR) + "/golden/data/" + name + ".h5";
}

// The packaged model's generated weights as a Hugging Face directory.
std::string directory(const ScratchFolder& folder, const std::string& name, const std::string& model,
                      std::uint64_t seed) {
  const ModelConfig config = scenarios::load_model(model);
  const std::string path = folder.file(name);
  golden::save_checkpoint(path, config.json,
                          scenarios::initial_weights(config, static_cast<long long>(seed)));
  return path;
}

void change(const std::string& path, const std::function<void(Weights&)>& how) {
  Weights stored;
  {
    const golden::SafetensorsFile file(path + "/model.safetensors");
    for (const std::string& name : file.names()) stored[name] = file.tensor(name);
  }
  how(stored);
  golden::write_safetensors(path + "/model.safetensors", stored);
}

void check_refused(const std::vector<std::string>& words, const std::string& said) {
  const Finished done = weights(words);
  INFO(done.out << done.err);
  CHECK(done.code == 2);
  CHECK(done.err.find(said) != std::string::npos);
  CHECK(std::count(done.err.begin(), done.err.end(), '\n') == 1);
}

}  // namespace

TEST_CASE("weights: a directory equals its golden, whatever the names and however experts are stored") {
  const ScratchFolder folder;
  const std::string golden = golden_file("tiny-vl-moe.rows");
  const golden::Store store = golden::read(golden, golden::Kind::golden);
  Weights stored;
  for (const auto& [path, tensor] : store.tensors)
    if (path.rfind("weights/", 0) == 0) stored[path.substr(8)] = tensor;
  golden::save_checkpoint(folder.file("a"), store.strings.at("config"), stored);
  const Finished done = weights({golden, folder.file("a")});
  INFO(done.out << done.err);
  CHECK(done.code == 0);
  CHECK(done.out.rfind("EQUAL ", 0) == 0);
  CHECK(done.out.find("bit for bit") != std::string::npos);
  // One by one: as many weights as the taken-apart ones.
  const auto one = golden::open_weights(golden);
  CHECK(one->find("model.layers.0.mlp.experts.11.up_proj.weight") >= 0);
  CHECK(one->find("model.layers.0.mlp.experts.gate_up_proj") < 0);
}

TEST_CASE("weights: what a step changed, and what stayed, is told") {
  const std::string golden = golden_file("tiny-dense.rows");
  const Finished done = weights({golden + ":step2", golden, "--previous", golden + ":step1", "--list", "2"});
  INFO(done.out << done.err);
  CHECK(done.code == 1);
  CHECK(done.out.rfind("DIFFERENT ", 0) == 0);
  CHECK(done.out.find("(--list 0 prints all)") != std::string::npos);
  const ScratchFolder folder;
  const Finished stale = weights(
      {golden + ":step2", golden + ":step1", "--previous", golden + ":step1", "--json", folder.file("j")});
  CHECK(stale.code == 1);
  const auto json = nlohmann::json::parse(slurp(folder.file("j")));
  REQUIRE(json["wrong"].size() > 60);
  for (const auto& wrong : json["wrong"]) CHECK(wrong["cause"] == "stale: equal to the previous version");
}

TEST_CASE("weights: faults in directories are named by the parameter") {
  const ScratchFolder folder;
  const std::string a = directory(folder, "a", "tiny-moe", 3), b = directory(folder, "b", "tiny-moe", 3);
  Finished done = weights({a, b});
  CHECK((done.code == 0 && done.out.rfind("EQUAL ", 0) == 0));
  // Two experts swapped in the fused tensor.
  change(b, [](Weights& w) {
    HostTensor& t = w.at("model.layers.1.mlp.experts.down_proj");
    const std::size_t bytes = t.bytes.size() / static_cast<std::size_t>(t.shape[0]);
    std::swap_ranges(t.bytes.begin() + bytes, t.bytes.begin() + 2 * bytes, t.bytes.begin() + 4 * bytes);
  });
  done = weights({a, b});
  INFO(done.out << done.err);
  CHECK(done.code == 1);
  CHECK(done.out.find("model.layers.1.mlp.experts.1.down_proj.weight") != std::string::npos);
  CHECK(done.out.find("holds what was sent as model.layers.1.mlp.experts.4.down_proj.weight") !=
        std::string::npos);
}

TEST_CASE("weights: bad input is one line") {
  const ScratchFolder folder;
  const std::string a = directory(folder, "a", "tiny-dense", 1);
  check_refused({a, folder.file("none")}, "none: no such file or directory");
  check_refused({a, folder.write("x.safetensors", "not a file of weights")}, "x.safetensors");
  check_refused({golden_file("tiny-dense.rows") + ":step9", a}, "expected/step9/weights/: holds no weight");
  check_refused({a, a, "--json", folder.file("no/such")}, "cannot be written");
  check_refused({a}, "got");
  std::filesystem::create_directory(folder.file("empty"));
  check_refused({folder.file("empty"), a}, "holds neither model.safetensors nor");
  Weights other = {{"x", HostTensor::scalar(1)}};
  golden::write_safetensors(folder.file("other.safetensors"), other);
  check_refused({a, folder.file("other.safetensors")}, "have no weight in common");
  golden::write_safetensors(folder.file("nothing.safetensors"), Weights{});
  check_refused({a, folder.file("nothing.safetensors")}, "holds no weight");
  std::filesystem::resize_file(a + "/model.safetensors",
                               std::filesystem::file_size(a + "/model.safetensors") - 8);
  check_refused({a, golden_file("tiny-dense.rows")}, "model.safetensors: damaged");
}

}  // namespace meshparity::cli::verb_weights_test

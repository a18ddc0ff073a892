// meshparity cut, run as a user runs it: the small checkpoint holds exactly the rows it says, from every way
// a big one may be stored, and wrong input leaves nothing behind.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "golden/checkpoint.h"
#include "golden/safetensors.h"
#include "harness/cli/command_fixture.h"
#include "scenarios/initial_weights.h"
#include "scenarios/load.h"

namespace meshparity::cli::verb_cut_test {
namespace {

namespace fs = std::filesystem;
using Weights = std::map<std::string, HostTensor>;
using nlohmann::json;

Finished cut(const std::string& from, const std::string& to, std::vector<std::string> more) {
  std::vector<std::string> words = {MESHPARITY_JUDGE, "cut", "--from", from, "--to", to};
  words.insert(words.end(), more.begin(), more.end());
  return execute(words);
}

// A packaged model with generated weights as a Hugging Face directory.
struct Big {
  ModelConfig config;
  Weights weights;
  std::string path;
};

Big big(const ScratchFolder& folder, const std::string& model) {
  Big made;
  made.config = scenarios::load_model(model);
  made.weights = scenarios::initial_weights(made.config, 5);
  made.path = folder.file("big");
  golden::save_checkpoint(made.path, made.config.json, made.weights);
  return made;
}

Weights load(const std::string& path) {
  return golden::load_checkpoint(path, scenarios::load_model(path));
}

bool same_rows(const HostTensor& small, std::int64_t at, const HostTensor& large, std::int64_t from,
               std::int64_t rows) {
  const std::size_t row = large.bytes.size() / static_cast<std::size_t>(large.shape[0]);
  return std::memcmp(small.bytes.data() + static_cast<std::size_t>(at) * row,
                     large.bytes.data() + static_cast<std::size_t>(from) * row,
                     static_cast<std::size_t>(rows) * row) == 0;
}

void check_refused(const Finished& done, const std::string& said, const std::string& to) {
  INFO(done.out << done.err);
  CHECK(done.code == 2);
  CHECK(done.err.find(said) != std::string::npos);
  CHECK(std::count(done.err.begin(), done.err.end(), '\n') == 1);
  // Nothing half-written, under this name or the one it is written under first.
  const fs::path parent = fs::path(to).parent_path();
  for (const auto& entry : fs::directory_iterator(parent))
    CHECK(entry.path().string().rfind(to + ".part", 0) != 0);
}

// The same checkpoint in two files with an index, its experts one by one.
void store_apart(const std::string& path) {
  const golden::SafetensorsFile file(path + "/model.safetensors");
  Weights first, second;
  for (const std::string& name : file.names()) {
    const HostTensor tensor = file.tensor(name);
    const bool gate_up = name.find("experts.gate_up_proj") != std::string::npos,
               down = name.find("experts.down_proj") != std::string::npos;
    if (!gate_up && !down) {
      (name.find("layers.1.") != std::string::npos ? second : first)[name] = tensor;
      continue;
    }
    const std::string stem = name.substr(0, name.find("experts.") + 8);
    const std::int64_t rows = gate_up ? tensor.shape[1] / 2 : tensor.shape[1], columns = tensor.shape[2];
    const std::size_t bytes = static_cast<std::size_t>(rows * columns) * dtype_size(tensor.dtype);
    std::size_t at = 0;
    for (std::int64_t e = 0; e < tensor.shape[0]; ++e)
      for (const char* part : {"gate_proj", "up_proj", "down_proj"}) {
        if ((std::string(part) == "down_proj") != down) continue;
        HostTensor one = HostTensor::zeros(tensor.dtype, {rows, columns});
        std::memcpy(one.bytes.data(), tensor.bytes.data() + at, bytes);
        at += bytes;
        second[stem + std::to_string(e) + "." + part + ".weight"] = std::move(one);
      }
  }
  fs::remove(path + "/model.safetensors");
  golden::write_safetensors(path + "/model-00001-of-00002.safetensors", first);
  golden::write_safetensors(path + "/model-00002-of-00002.safetensors", second);
  json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", json::object()}};
  for (const auto& [name, tensor] : first) index["weight_map"][name] = "model-00001-of-00002.safetensors";
  for (const auto& [name, tensor] : second) index["weight_map"][name] = "model-00002-of-00002.safetensors";
  std::ofstream(path + "/model.safetensors.index.json") << index.dump();
}

}  // namespace

TEST_CASE("cut keeps the first layers, experts and rows, the tower and multi-token prediction") {
  for (const bool apart : {false, true}) {
    const ScratchFolder folder;
    const Big from = big(folder, "tiny-vl-moe");
    if (apart) store_apart(from.path);
    const std::string to = folder.file("small");
    const Finished done = cut(from.path, to, {"--layers", "4", "--experts", "3", "--vocab", "20"});
    INFO(done.out << done.err);
    REQUIRE(done.code == 0);
    const ModelConfig small = scenarios::load_model(to);
    CHECK(small.full_attention == std::vector<bool>{false, false, false, true});
    CHECK(small.num_experts == 3);
    CHECK(small.num_experts_per_tok == 2);
    CHECK(small.vocab_size == 20);
    CHECK(small.mtp_num_hidden_layers == 1);
    CHECK(small.vision.depth == from.config.vision.depth);
    const Weights weights = load(to);
    for (const auto& p : parameters_of(small)) {
      INFO(p.name);
      const HostTensor &got = weights.at(p.name), &want = from.weights.at(p.name);
      CHECK(got.shape == p.shape);
      const bool of_vocabulary = p.name == "model.embed_tokens.weight" || p.name == "lm_head.weight";
      if (!of_vocabulary) {
        CHECK(same_rows(got, 0, want, 0, p.shape[0]));
        continue;
      }
      // Four placeholders outside the first 20 rows took the last places, each with its own row.
      CHECK(same_rows(got, 0, want, 0, 16));
      CHECK(same_rows(got, small.image_token_id, want, from.config.image_token_id, 1));
      CHECK(same_rows(got, small.video_token_id, want, from.config.video_token_id, 1));
      CHECK(same_rows(got, small.vision_start_token_id, want, from.config.vision_start_token_id, 1));
      CHECK(same_rows(got, small.vision_end_token_id, want, from.config.vision_end_token_id, 1));
    }
    std::vector<std::int64_t> places = {small.image_token_id, small.video_token_id,
                                        small.vision_start_token_id, small.vision_end_token_id};
    std::sort(places.begin(), places.end());
    CHECK(places == std::vector<std::int64_t>{16, 17, 18, 19});
    CHECK(done.out.find("image_token_id 61: outside, now 19, with its own row") != std::string::npos);
    // Stored names stay as they were: the multimodal class's, and experts one by one where they were.
    const golden::SafetensorsFile file(to + "/model.safetensors");
    CHECK(file.has("model.language_model.embed_tokens.weight"));
    CHECK(file.has("mtp.layers.0.mlp.experts.2.up_proj.weight") == apart);
    CHECK(file.has("mtp.layers.0.mlp.experts.gate_up_proj") == !apart);
  }
}

TEST_CASE("cut keeps a tied head, and what is not asked for stays whole") {
  const ScratchFolder folder;
  const Big from = big(folder, "tiny-tied");
  std::ofstream(from.path + "/tokenizer.json") << "{}";
  const Finished layers = cut(from.path, folder.file("small"), {"--layers", "2"});
  INFO(layers.out << layers.err);
  REQUIRE(layers.code == 0);
  CHECK(layers.out.find("0 to 1 of 5 (2 linear_attention, 0 full_attention)") != std::string::npos);
  CHECK(layers.out.find("not copied: tokenizer.json") != std::string::npos);
  const ModelConfig small = scenarios::load_model(folder.file("small"));
  CHECK(small.tie_word_embeddings);
  CHECK(small.vocab_size == from.config.vocab_size);
  const Weights weights = load(folder.file("small"));
  CHECK(weights.count("lm_head.weight") == 0);
  CHECK(weights.at("model.embed_tokens.weight").bytes == from.weights.at("model.embed_tokens.weight").bytes);
  const Finished all = cut(from.path, folder.file("all"), {});
  REQUIRE(all.code == 0);
  CHECK(load(folder.file("all")).size() == from.weights.size());
}

TEST_CASE("ids outside the smaller vocabulary leave the config") {
  const ScratchFolder folder;
  const Big from = big(folder, "tiny-moe");
  json config = json::parse(from.config.json);
  config["eos_token_id"] = {3, 60}, config["bos_token_id"] = 59, config["pad_token_id"] = 2;
  std::ofstream(from.path + "/config.json") << config.dump();
  const Finished done = cut(from.path, folder.file("small"), {"--vocab", "10"});
  INFO(done.out << done.err);
  REQUIRE(done.code == 0);
  const json small = json::parse(slurp(folder.file("small/config.json")));
  CHECK(small["eos_token_id"] == json::array({3}));
  CHECK(small["bos_token_id"].is_null());
  CHECK(small["pad_token_id"] == 2);
  CHECK(done.out.find("bos_token_id 59: outside, left out") != std::string::npos);
}

TEST_CASE("a config with multi-token prediction whose weights are not there is cut without it") {
  const ScratchFolder folder;
  Big from = big(folder, "tiny-vl");
  for (auto at = from.weights.begin(); at != from.weights.end();)
    at = at->first.rfind("mtp.", 0) == 0 ? from.weights.erase(at) : std::next(at);
  golden::save_checkpoint(from.path, from.config.json, from.weights);
  const Finished done = cut(from.path, folder.file("small"), {"--layers", "4"});
  INFO(done.out << done.err);
  REQUIRE(done.code == 0);
  CHECK(done.out.find("no multi-token prediction in it") != std::string::npos);
  const ModelConfig small = scenarios::load_model(folder.file("small"));
  CHECK(small.mtp_num_hidden_layers == 0);
  CHECK(small.has_vision());
  CHECK(load(folder.file("small")).size() == parameters_of(small).size());
}

TEST_CASE("a cut that cannot be is refused in one line and leaves nothing") {
  const ScratchFolder folder;
  const Big from = big(folder, "tiny-vl-moe");
  const std::string to = folder.file("small");
  check_refused(cut(from.path, to, {"--layers", "6"}), "--layers 6 is more than num_hidden_layers=5", to);
  check_refused(cut(from.path, to, {"--vocab", "1000"}), "--vocab 1000 is more than vocab_size=67", to);
  check_refused(cut(from.path, to, {"--experts", "13"}), "--experts 13 is more than num_experts=12", to);
  check_refused(cut(from.path, to, {"--vocab", "3"}), "leaves no row beside those of the placeholders", to);
  check_refused(cut(from.path, to, {"--layers", "0"}), "--layers", to);
  check_refused(cut(folder.file("nowhere"), to, {}), "nowhere: is no folder", to);
  check_refused(cut(from.path, from.path, {"--layers", "2"}), "is not empty", to);
  CHECK(!fs::exists(to));
  const std::string weights = slurp(from.path + "/model.safetensors");
  check_refused(cut(from.path, from.path, {"--layers", "2", "--force"}), "is the folder that --from names",
                to);
  CHECK(slurp(from.path + "/model.safetensors") == weights);
  // Whoever loads a folder with an index reads what it names.
  fs::create_directories(to);
  std::ofstream(to + "/model.safetensors.index.json") << "{}";
  check_refused(cut(from.path, to, {"--layers", "2", "--force"}), "holds model.safetensors.index.json", to);
  CHECK(!fs::exists(to + "/model.safetensors"));
  fs::remove_all(to);
  const Big dense = big(folder, "tiny-dense");
  check_refused(cut(dense.path, to, {"--experts", "2"}), "is a dense model", to);
  CHECK(!fs::exists(to));
}

TEST_CASE("a checkpoint that is not the config's is refused, and its weight named") {
  const auto refused = [](const std::string& said, const std::function<void(const std::string&)>& spoil) {
    const ScratchFolder folder;
    const Big from = big(folder, "tiny-vl-moe");
    spoil(from.path);
    const std::string to = folder.file("small");
    check_refused(cut(from.path, to, {"--layers", "4", "--experts", "2"}), said, to);
    CHECK(!fs::exists(to));
  };
  const auto with = [](const std::function<void(Weights&)>& change) {
    return [change](const std::string& path) {
      Weights stored;
      {
        const golden::SafetensorsFile file(path + "/model.safetensors");
        for (const std::string& name : file.names()) stored[name] = file.tensor(name);
      }
      change(stored);
      golden::write_safetensors(path + "/model.safetensors", stored);
    };
  };
  const std::string layer = "model.language_model.layers.0.";
  refused("model.layers.0.mlp.gate.weight: is missing",
          with([&](Weights& w) { w.erase(layer + "mlp.gate.weight"); }));
  refused("model.visual.merger.norm.bias: is missing",
          with([](Weights& w) { w.erase("model.visual.merger.norm.bias"); }));
  refused("model.language_model.layers.0.mlp.gate.weight_scale_inv: is no parameter of this model",
          with([&](Weights& w) { w[layer + "mlp.gate.weight_scale_inv"] = HostTensor::scalar(1); }));
  refused("has shape [3,24], must be [12,24]", with([&](Weights& w) {
            w[layer + "mlp.gate.weight"] = HostTensor::zeros(DType::float64, {3, 24});
          }));
  refused("model-00002-of-00002.safetensors: cannot be read", [](const std::string& path) {
    store_apart(path);
    fs::remove(path + "/model-00002-of-00002.safetensors");
  });
  refused("mtp.layers.0.mlp.experts.1.up_proj.weight", [](const std::string& path) {
    store_apart(path);
    json index = json::parse(slurp(path + "/model.safetensors.index.json"));
    index["weight_map"].erase("mtp.layers.0.mlp.experts.1.up_proj.weight");
    std::ofstream(path + "/model.safetensors.index.json") << index.dump();
  });
  refused("damaged", [](const std::string& path) {
    fs::resize_file(path + "/model.safetensors", fs::file_size(path + "/model.safetensors") - 8);
  });
  refused("config.json", [](const std::string& path) { fs::remove(path + "/config.json"); });
  refused("model_type", [](const std::string& path) {
    std::ofstream(path + "/config.json") << R"({"model_type": "llama"})";
  });
}

TEST_CASE("a full disk leaves nothing of a cut") {
  const ScratchFolder folder;
  const Big from = big(folder, "tiny-moe");
  const std::string to = folder.file("small");
  const Finished done =
      execute_on_full_disk({MESHPARITY_JUDGE, "cut", "--from", from.path, "--to", to, "--layers", "4"});
  INFO(done.out << done.err);
  CHECK(done.code == 2);
  CHECK(done.err.find("cannot be written") != std::string::npos);
  CHECK(!fs::exists(to));
}

}  // namespace meshparity::cli::verb_cut_test

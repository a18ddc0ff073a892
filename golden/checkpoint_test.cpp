// Checkpoints of every published form load as the same weights; a weight that is wrong is named.
#include "golden/checkpoint.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>

#include "golden/checkpoint_files.h"
#include "golden/safetensors.h"
#include "golden/test_files.h"

namespace meshparity::golden {
namespace {

using Catch::Contains;
using Weights = std::map<std::string, HostTensor>;

ModelConfig small_moe() {
  ModelConfig config;
  config.vocab_size = 7, config.hidden_size = 4, config.num_hidden_layers = 1;
  config.num_attention_heads = 2, config.num_key_value_heads = 1, config.head_dim = 4;
  config.num_experts = 3, config.num_experts_per_tok = 2, config.moe_intermediate_size = 5;
  config.shared_expert_intermediate_size = 3;
  config.full_attention = {true};
  return config;
}

Weights weights_of(const ModelConfig& config) {
  Weights weights;
  double first = 0;
  for (const auto& parameter : parameters_of(config))
    weights[parameter.name] = reals(parameter.shape, ++first);
  return weights;
}

bool same(const Weights& a, const Weights& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a)
    if (!b.count(name) || !equal(tensor, b.at(name))) return false;
  return true;
}

const std::string kExperts = "model.layers.0.mlp.experts.";

// Rows [begin, end) of dimension 0, with a shape of their own.
HostTensor rows_of(const HostTensor& tensor, std::int64_t begin, std::int64_t end, Shape shape) {
  const std::size_t row = tensor.bytes.size() / static_cast<std::size_t>(tensor.shape[0]);
  HostTensor part;
  part.dtype = tensor.dtype;
  part.shape = std::move(shape);
  part.bytes.assign(tensor.bytes.begin() + static_cast<std::ptrdiff_t>(row) * begin,
                    tensor.bytes.begin() + static_cast<std::ptrdiff_t>(row) * end);
  return part;
}

// The fused experts replaced by one matrix per expert and projection.
Weights one_by_one(Weights weights) {
  const HostTensor gate_up = weights.at(kExperts + "gate_up_proj"), down = weights.at(kExperts + "down_proj");
  weights.erase(kExperts + "gate_up_proj");
  weights.erase(kExperts + "down_proj");
  for (std::int64_t e = 0; e < 3; ++e) {
    const HostTensor both = rows_of(gate_up, e, e + 1, {10, 4});
    const std::string prefix = kExperts + std::to_string(e) + ".";
    weights[prefix + "gate_proj.weight"] = rows_of(both, 0, 5, {5, 4});
    weights[prefix + "up_proj.weight"] = rows_of(both, 5, 10, {5, 4});
    weights[prefix + "down_proj.weight"] = rows_of(down, e, e + 1, {4, 5});
  }
  return weights;
}

// What loading says of a checkpoint after `change`.
template <class Change>
std::string load_changed(Change change) {
  const TemporaryFolder folder;
  ModelConfig config = small_moe();
  Weights weights = weights_of(config);
  change(weights, config);
  save_checkpoint(folder.file("c"), "{}", weights);
  return input_error([&] { load_checkpoint(folder.file("c"), config); });
}

}  // namespace

TEST_CASE("a saved checkpoint loads as it was") {
  const TemporaryFolder folder;
  const Weights weights = weights_of(small_moe());
  save_checkpoint(folder.file("deep/c"), "{\"x\": 1}", weights);
  CHECK(slurp(folder.file("deep/c/config.json")) == "{\"x\": 1}");
  CHECK(same(load_checkpoint(folder.file("deep/c"), small_moe()), weights));
}

TEST_CASE("the multimodal class, experts one by one and many files load as the same weights") {
  const TemporaryFolder folder;
  const Weights weights = weights_of(small_moe());
  Weights first, second;
  for (const auto& [name, tensor] : one_by_one(weights)) {
    const bool head = name == "lm_head.weight";
    const std::string stored = head ? name : "model.language_model." + name.substr(std::strlen("model."));
    (first.size() < 8 ? first : second)[stored] = tensor;
  }
  second["model.visual.patch_embed.proj.weight"] = reals({2}, 0);
  second["mtp.fc.weight"] = HostTensor::zeros(DType::uint8, {2});
  std::filesystem::create_directories(folder.file("c"));
  write_safetensors(folder.file("c/a.safetensors"), first);
  write_safetensors(folder.file("c/b.safetensors"), second);
  std::string map;
  for (const auto& [name, tensor] : first)
    map += (map.empty() ? "" : ",") + ("\"" + name + "\":\"a.safetensors\"");
  for (const auto& [name, tensor] : second) map += ",\"" + name + "\":\"b.safetensors\"";
  spill(folder.file("c/model.safetensors.index.json"), "{\"metadata\":{},\"weight_map\":{" + map + "}}");
  CHECK(same(load_checkpoint(folder.file("c"), small_moe()), weights));
}

TEST_CASE("the multimodal class is written under its own names and read back") {
  const TemporaryFolder folder;
  const Weights weights = weights_of(small_moe());
  save_checkpoint(folder.file("c"), R"({"text_config": {}})", weights);
  const SafetensorsFile file(folder.file("c/model.safetensors"));
  CHECK(file.has("model.language_model.embed_tokens.weight"));
  CHECK(!file.has("model.embed_tokens.weight"));
  CHECK(file.has("lm_head.weight"));
  CHECK(same(load_checkpoint(folder.file("c"), small_moe()), weights));
}

TEST_CASE("the multimodal class of a model with a tower must hold it") {
  const TemporaryFolder folder;
  ModelConfig config = small_moe();
  config.vision.depth = 1, config.vision.hidden_size = 4, config.vision.num_heads = 1;
  config.vision.intermediate_size = 3, config.vision.patch_size = 1, config.vision.out_hidden_size = 4;
  config.vision.num_position_embeddings = 4;
  config.mtp_num_hidden_layers = 1;
  Weights weights = weights_of(config);
  CHECK(weights.count("mtp.layers.0.mlp.experts.gate_up_proj") == 1);
  save_checkpoint(folder.file("c"), R"({"text_config": {}})", one_by_one(weights));
  CHECK(same(load_checkpoint(folder.file("c"), config), weights));
  CHECK(same(load_checkpoint(folder.file("c"), small_moe()), weights_of(small_moe())));
  weights.erase("model.visual.merger.norm.bias");
  save_checkpoint(folder.file("d"), R"({"text_config": {}})", weights);
  CHECK_THROWS_WITH(load_checkpoint(folder.file("d"), config), Contains("model.visual.merger.norm.bias"));
}

TEST_CASE("stored dtypes are kept") {
  const TemporaryFolder folder;
  Weights weights = weights_of(small_moe());
  weights["model.norm.weight"] = HostTensor::zeros(DType::bfloat16, {4});
  save_checkpoint(folder.file("c"), "{}", weights);
  CHECK(load_checkpoint(folder.file("c"), small_moe()).at("model.norm.weight").dtype == DType::bfloat16);
}

TEST_CASE("a weight that is missing, unknown, mis-shaped or of no floating dtype is named") {
  CHECK_THAT(load_changed([](Weights& w, ModelConfig&) { w.erase("model.norm.weight"); }),
             Contains("model.norm.weight: is missing"));
  CHECK_THAT(load_changed([](Weights& w, ModelConfig&) {
               w["model.layers.1.input_layernorm.weight"] = reals({4}, 0);
             }),
             Contains("model.layers.1.input_layernorm.weight: is no parameter"));
  CHECK_THAT(load_changed([](Weights& w, ModelConfig&) {
               w["lm_head.weight"] = reals({7, 5}, 0);
             }),
             Contains("lm_head.weight: has shape [7,5], must be [7,4]"));
  CHECK_THAT(load_changed([](Weights& w, ModelConfig&) {
               w["model.norm.weight"] = HostTensor::zeros(DType::int64, {4});
             }),
             Contains("model.norm.weight: has dtype int64"));
  CHECK_THAT(load_changed([](Weights& w, ModelConfig&) {
               w["model.language_model.norm.weight"] = w["model.norm.weight"];
             }),
             Contains("stands twice"));
}

TEST_CASE("an expert that is missing, mis-shaped, of another dtype or there in both forms is named") {
  const std::string gate = kExperts + "1.gate_proj.weight";
  CHECK_THAT(load_changed([&](Weights& w, ModelConfig&) { w = one_by_one(w), w.erase(gate); }),
             Contains(gate + ": is missing"));
  CHECK_THAT(load_changed([&](Weights& w, ModelConfig&) {
               w = one_by_one(w), w[gate] = reals({4, 5}, 0);
             }),
             Contains(gate + ": has shape [4,5], must be [5,4]"));
  CHECK_THAT(load_changed([&](Weights& w, ModelConfig&) {
               w = one_by_one(w), w[gate] = HostTensor::zeros(DType::float32, {5, 4});
             }),
             Contains(gate + ": has dtype float32, other experts of its layer float64"));
  CHECK_THAT(load_changed([&](Weights& w, ModelConfig&) { w.merge(one_by_one(w)); }),
             Contains(kExperts + "0.down_proj.weight: is no parameter"));
  CHECK_THAT(load_changed([&](Weights& w, ModelConfig&) {
               w = one_by_one(w), w[kExperts + "3.down_proj.weight"] = reals({4, 5}, 0);
             }),
             Contains(kExperts + "3.down_proj.weight: is no parameter"));
}

TEST_CASE("a tied head may be absent or equal, never different") {
  const auto tied = [](auto change) {
    return load_changed([&](Weights& w, ModelConfig& config) {
      config.tie_word_embeddings = true;
      w["lm_head.weight"] = w["model.embed_tokens.weight"];
      change(w);
    });
  };
  CHECK(tied([](Weights&) {}).empty());
  CHECK(tied([](Weights& w) { w.erase("lm_head.weight"); }).empty());
  CHECK_THAT(tied([](Weights& w) { w["lm_head.weight"].as<double>()[3] += 1; }),
             Contains("lm_head.weight: differs"));
  CHECK_THAT(load_changed([](Weights& w, ModelConfig&) { w.erase("lm_head.weight"); }),
             Contains("lm_head.weight: is missing"));
}

TEST_CASE("a directory without weights and an index that lies are named") {
  const TemporaryFolder folder;
  const ModelConfig config = small_moe();
  const auto message = [&] { return input_error([&] { load_checkpoint(folder.file("."), config); }); };
  CHECK_THAT(message(), Contains("holds neither model.safetensors nor"));
  const auto index = [&](const std::string& text) {
    spill(folder.file("model.safetensors.index.json"), text);
    return message();
  };
  write_safetensors(folder.file("a.safetensors"), {{"x", reals({1}, 0)}});
  CHECK_THAT(index("{}"), Contains("weight_map: is missing"));
  CHECK_THAT(index("{\"weight_map\":{\"x\":"), Contains("weight_map"));
  CHECK_THAT(index("{\"weight_map\":{\"x\":\"../a.safetensors\"}}"),
             Contains("x: names no file of this directory"));
  CHECK_THAT(index("{\"weight_map\":{\"x\":\"..\"}}"), Contains("x: names no file of this directory"));
  CHECK_THAT(index("{\"weight_map\":{\"x\":5}}"), Contains("x: names no file of this directory"));
  CHECK_THAT(index("{\"weight_map\":{\"x\":\"b.safetensors\"}}"), Contains("b.safetensors: cannot be read"));
  CHECK_THAT(index("{\"weight_map\":{\"y\":\"a.safetensors\"}}"),
             Contains("y: is missing, the index names it"));
}

TEST_CASE("a directory whose weights no name leads to is no directory without weights") {
  const TemporaryFolder folder;
  const auto held = [&] { return holds_checkpoint(folder.file(".")); };
  spill(folder.file("config.json"), "{}");
  CHECK(!held());
  for (const char* name : {"model-00002-of-00003.safetensors", "pytorch_model.bin"}) {
    spill(folder.file(name), "weights");
    CHECK_THAT(input_error(held), Contains(std::string("holds ") + name + ", but neither model.safetensors"));
    std::filesystem::remove(folder.file(name));
  }
  spill(folder.file("model.safetensors"), "weights");
  CHECK(held());
}

TEST_CASE("an exported batch holds the batch") {
  const TemporaryFolder folder;
  Batch batch = batch_of(small_golden());
  export_batch(folder.file("b"), batch);
  const SafetensorsFile file(folder.file("b/batch.safetensors"));
  CHECK(file.tensor("token_ids").to_int64() == batch.token_ids);
  CHECK(file.tensor("labels").to_int64() == batch.labels);
  CHECK(file.tensor("document_offsets").to_int64() == batch.document_offsets);
  CHECK(file.tensor("row_offsets").to_int64() == batch.row_offsets);
  CHECK(file.tensor("micro_batch_offsets").to_int64() == batch.micro_batch_offsets);
  CHECK_FALSE(file.has("position_ids"));
  batch.position_ids.assign(21, 2);
  export_batch(folder.file("b"), batch);
  CHECK(SafetensorsFile(folder.file("b/batch.safetensors")).view("position_ids").shape == Shape{3, 7});
}

}  // namespace meshparity::golden

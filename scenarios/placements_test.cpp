// The placement table covers every parameter of any Qwen3.5 model, and a table that does not is refused.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "harness/types/error.h"
#include "scenarios/fields.h"
#include "scenarios/load.h"

namespace meshparity::scenarios {
namespace {

const ParameterPlacement& row(const PlacementTable& table, const std::string& name) {
  for (const auto& p : table)
    if (p.name == name) return p;
  throw InputError("no row " + name);
}

// A scenarios folder of its own for the length of a test.
class ScenarioFolder {
 public:
  ScenarioFolder() {
    char name[] = "/tmp/meshparity-scenarios-XXXXXX";
    REQUIRE(mkdtemp(name));
    path_ = name;
    setenv("MESHPARITY_SCENARIOS", name, 1);
  }
  ~ScenarioFolder() {
    unsetenv("MESHPARITY_SCENARIOS");
    std::filesystem::remove_all(path_);
  }
  void write(const char* file, const std::string& text) { std::ofstream(path_ / file) << text; }

 private:
  std::filesystem::path path_;
};

}  // namespace

TEST_CASE("every parameter of the packaged models and of the published sizes is placed") {
  for (const char* model : {"tiny-dense", "tiny-moe", "tiny-vl", "tiny-vl-moe"}) {
    const ModelConfig config = load_model(model);
    const PlacementTable table = load_placements(config);
    const auto parameters = parameters_of(config);
    REQUIRE(table.size() == parameters.size());
    for (std::size_t i = 0; i < table.size(); ++i) {
      CHECK(table[i].name == parameters[i].name);
      CHECK(table[i].shape == parameters[i].shape);
    }
  }
  for (const char* type : {"qwen3_5_text", "qwen3_5_moe_text"})
    CHECK(load_placements(parse_model_config(Json{{"model_type", type}}.dump(), "published")).size() > 300);
}

TEST_CASE("blocks resolve to heads and widths of the model") {
  const PlacementTable table = load_placements(load_model("tiny-moe"));
  const auto& qkv = row(table, "model.layers.0.linear_attn.in_proj_qkv.weight");
  CHECK(qkv.tp_dim == 0);
  CHECK(qkv.tp_blocks == std::vector<Block>{{6, 6, false}, {6, 6, false}, {12, 4, false}});
  CHECK(row(table, "model.layers.3.self_attn.q_proj.weight").tp_blocks == std::vector<Block>{{6, 48, false}});
  CHECK(row(table, "model.layers.3.self_attn.k_proj.weight").tp_blocks == std::vector<Block>{{1, 24, true}});
  const auto& experts = row(table, "model.layers.0.mlp.experts.gate_up_proj");
  CHECK(experts.expert);
  CHECK(experts.tp_dim == 1);
  CHECK(experts.tp_blocks == std::vector<Block>{{8, 1, false}, {8, 1, false}});
  CHECK(row(table, "model.norm.weight").tp_dim == -1);
}

TEST_CASE("the tower is cut by heads in sections, and biases after a sum are whole") {
  const PlacementTable table = load_placements(load_model("tiny-vl"));
  const auto& qkv = row(table, "model.visual.blocks.0.attn.qkv.bias");
  CHECK(qkv.tower);
  CHECK(qkv.tp_dim == 0);
  CHECK(qkv.tp_blocks == std::vector<Block>{{6, 4, false}, {6, 4, false}, {6, 4, false}});
  CHECK(row(table, "model.visual.blocks.1.mlp.linear_fc2.weight").tp_dim == 1);
  CHECK(row(table, "model.visual.blocks.1.mlp.linear_fc2.bias").tp_dim == -1);
  CHECK(row(table, "model.visual.merger.linear_fc1.weight").tp_blocks == std::vector<Block>{{96, 1, false}});
  CHECK(row(table, "model.visual.pos_embed.weight").tp_dim == -1);
  CHECK(row(table, "mtp.fc.weight").tp_dim == -1);
  CHECK(row(table, "mtp.layers.0.self_attn.q_proj.weight").tp_dim == 0);
}

TEST_CASE("a placement table with a hole, a misfit or a typo is refused by field") {
  const ModelConfig config = load_model("tiny-dense");
  const std::string start = "[[parameter]]\nname = \"*\"\n";
  struct Wrong {
    std::string toml;
    const char* said;
  };
  const Wrong wrongs[] = {
      {"[[parameter]]\nname = \"model.norm.weight\"\n",
       "parameter: no entry matches model.embed_tokens.weight"},
      {start + "tp_dim = 0\ntp_blocks = [{count = 3}]\n", "parameter[0].tp_blocks: fill 3 of the 61 indices"},
      {start + "tp_dim = 0\ntp_blocks = [{count = \"vocabsize\"}]\n",
       "parameter[0].tp_blocks[0].count: 'vocabsize'"},
      {start + "tp_dim = 0\ntp_blocks = [{count = \"2*\"}]\n", "parameter[0].tp_blocks[0].count: ''"},
      {start + "tp_dim = 0\ntp_blocks = [{count = \"num_experts\"}]\n",
       "parameter[0].tp_blocks[0].count: is empty"},
      {start + "tp_dim = 2\ntp_blocks = []\n", "parameter[0].tp_dim: must be from -1 to 1"},
      {start + "tp_dim = 0\n", "parameter[0].tp_blocks: missing"},
      {start + "tp_blocks = []\n", "parameter[0].tp_blocks: given without tp_dim"},
      {start + "shard = 0\n", "parameter[0].shard: unknown field"},
      {"parameter = 3\n", "parameter: must be a list of tables"},
  };
  for (const auto& wrong : wrongs) {
    ScenarioFolder folder;
    folder.write("placements.toml", wrong.toml);
    INFO(wrong.toml);
    CHECK_THROWS_WITH(load_placements(config), Catch::Contains(wrong.said));
  }
}

TEST_CASE("every row of the packaged tolerances is read") {
  const auto policy = load_tolerance();
  for (const char* check :
       {"logits", "activations", "logprobs", "loss", "denominators", "grads", "grad_norm", "weights"})
    CHECK(policy.rows.count(std::string(check) + "/float64") == 1);
  CHECK(policy.rows.at("grads/float64").relative == 1e-11);
  CHECK(policy.rows.at("grads/float64").floor == 1e-3);
  CHECK(policy.rows.at("denominators/float64").relative == 0);
}

TEST_CASE("a tolerance table that cannot be meant is refused by field") {
  struct Wrong {
    const char* toml;
    const char* said;
  };
  const Wrong wrongs[] = {
      {"", "no row"},
      {"[logits]\nrelative = 1.0\ndoc = \"x\"\n", "logits: must be named check/dtype"},
      {"[\"logits/float65\"]\nrelative = 1.0\ndoc = \"x\"\n", "float65"},
      {"[\"logits/int64\"]\nrelative = 1.0\ndoc = \"x\"\n", "is no floating dtype"},
      {"[\"logits/float64\"]\ndoc = \"x\"\n", "give relative or condition"},
      {"[\"logits/float64\"]\nrelative = -1.0\ndoc = \"x\"\n", "relative: must not be negative"},
      {"[\"logits/float64\"]\nrelative = inf\ndoc = \"x\"\n", "relative: must be finite"},
      {"[\"logits/float64\"]\nrelative = 1.0\n", "doc: missing"},
      {"[\"logits/float64\"]\nrelative = 1.0\ndoc = \"x\"\ntypo = 1\n", "typo: unknown field"},
  };
  for (const auto& wrong : wrongs) {
    ScenarioFolder folder;
    folder.write("tolerance.toml", wrong.toml);
    INFO(wrong.toml);
    CHECK_THROWS_WITH(load_tolerance(), Catch::Contains(wrong.said));
  }
}

}  // namespace meshparity::scenarios

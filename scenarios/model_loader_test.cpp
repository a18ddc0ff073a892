// A config.json of Qwen3.5 gives the right sizes, absent fields take the library's defaults, and every wrong
// field is refused by name.
#include <catch2/catch.hpp>
#include <filesystem>
#include <map>

#include "harness/types/error.h"
#include "scenarios/fields.h"
#include "scenarios/load.h"

namespace meshparity::scenarios {
namespace {

Json tiny(const char* name) {
  return parse_json(read_text((scenarios_dir() / "models" / (std::string(name) + ".json")).string()), name);
}

ModelConfig parse(const Json& json) {
  return parse_model_config(json.dump(), "config.json");
}

std::string refusal_of(const Json& json) {
  try {
    parse(json);
  } catch (const InputError& e) {
    return e.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("the packaged models have the sizes the design gives them") {
  const ModelConfig dense = load_model("tiny-dense"), moe = load_model("tiny-moe");
  CHECK(dense.name == "tiny-dense");
  CHECK(dense.num_hidden_layers == 5);
  CHECK(dense.full_attention == std::vector<bool>{false, false, false, true, false});
  CHECK(dense.rotary_dim == 6);
  CHECK(dense.intermediate_size == 40);
  CHECK(!dense.is_moe());
  CHECK(moe.is_moe());
  CHECK(moe.num_experts == 12);
  CHECK(moe.linear_num_key_heads == 6);
  const auto count = [](const ModelConfig& c) {
    std::int64_t n = 0;
    for (const auto& p : parameters_of(c)) n += shape_numel(p.shape);
    return n;
  };
  CHECK(count(dense) / 1000 == 56);
  CHECK(count(moe) / 1000 == 80);
}

TEST_CASE("a config with only its model_type takes the class defaults") {
  const ModelConfig dense = parse({{"model_type", "qwen3_5_text"}});
  CHECK(dense.vocab_size == 248320);
  CHECK(dense.hidden_size == 4096);
  CHECK(dense.num_hidden_layers == 32);
  CHECK(dense.num_key_value_heads == 4);
  CHECK(dense.intermediate_size == 12288);
  CHECK(dense.rotary_dim == 64);
  CHECK(dense.rope_theta == 10000);
  CHECK(dense.mrope_section == std::vector<std::int64_t>{11, 11, 10});
  CHECK(dense.full_attention[3]);
  CHECK(!dense.full_attention[4]);
  const ModelConfig moe = parse({{"model_type", "qwen3_5_moe_text"}});
  CHECK(moe.hidden_size == 2048);
  CHECK(moe.num_experts == 256);
  CHECK(moe.num_experts_per_tok == 8);
  CHECK(moe.intermediate_size == 0);
}

TEST_CASE(
    "a multimodal config without vision_config gives its text model, and the head's tie is read at the top") {
  Json text = tiny("tiny-moe");
  text["tie_word_embeddings"] = true;
  const Json whole = {{"model_type", "qwen3_5_moe"}, {"tie_word_embeddings", false}, {"text_config", text}};
  CHECK(parse(whole).num_experts == 12);
  CHECK(!parse(whole).tie_word_embeddings);
  Json mixed = whole;
  mixed["model_type"] = "qwen3_5";
  CHECK(refusal_of(mixed).find("model_type") != std::string::npos);
}

TEST_CASE(
    "a multimodal config gives the tower, the ids and the layer that predicts the token after the next") {
  const ModelConfig c = load_model("tiny-vl");
  CHECK(c.has_vision());
  CHECK(c.vision.depth == 2);
  CHECK(c.vision.head_dim() == 4);
  CHECK(c.vision.patch_width() == 24);
  CHECK(c.vision.merged_width() == 96);
  CHECK(c.image_token_id == 61);
  CHECK(c.video_token_id == 62);
  CHECK(c.vision_start_token_id == 63);
  CHECK(c.vision_end_token_id == 64);
  CHECK(c.mtp_num_hidden_layers == 1);
  CHECK(load_model("tiny-vl-moe").is_moe());
  std::map<std::string, Shape> shapes;
  for (const auto& p : parameters_of(c)) shapes[p.name] = p.shape;
  CHECK(shapes.at("model.visual.patch_embed.proj.weight") == Shape{24, 3, 2, 2, 2});
  CHECK(shapes.at("model.visual.blocks.1.attn.qkv.bias") == Shape{72});
  CHECK(shapes.at("model.visual.merger.linear_fc2.weight") == Shape{24, 96});
  CHECK(shapes.at("mtp.fc.weight") == Shape{24, 48});
  CHECK(shapes.at("mtp.layers.0.self_attn.q_norm.weight") == Shape{24});
}

TEST_CASE("text: before a multimodal model is its text model alone") {
  const ModelConfig c = load_model("text:tiny-vl");
  CHECK(c.name == "text:tiny-vl");
  CHECK(!c.has_vision());
  CHECK(c.mtp_num_hidden_layers == 0);
  for (const auto& p : parameters_of(c)) {
    INFO(p.name);
    CHECK(p.name.find("visual") == std::string::npos);
    CHECK(p.name.find("mtp") == std::string::npos);
  }
  // What a run stores as its config is that of the text model.
  CHECK(parameters_of(parse_model_config(c.json, "stored")).size() == parameters_of(c).size());
  CHECK(parameters_of(load_model("text:tiny-dense")).size() ==
        parameters_of(load_model("tiny-dense")).size());
}

TEST_CASE("a wrong field of the vision tower is named") {
  const auto refused = [](const char* key, const Json& value) {
    Json json = tiny("tiny-vl");
    json["vision_config"][key] = value;
    return refusal_of(json);
  };
  using Catch::Contains;
  CHECK_THAT(refused("out_hidden_size", 25), Contains("vision_config.out_hidden_size: 25"));
  CHECK_THAT(refused("num_heads", 5), Contains("vision_config.num_heads: 5"));
  CHECK_THAT(refused("num_heads", 12), Contains("multiple of 4"));
  CHECK_THAT(refused("num_position_embeddings", 35), Contains("square"));
  CHECK_THAT(refused("hidden_act", "silu"), Contains("vision_config.hidden_act"));
  CHECK_THAT(refused("deepstack_visual_indexes", {1}), Contains("deepstack_visual_indexes"));
  CHECK_THAT(refused("depth", 0), Contains("vision_config.depth"));
  Json json = tiny("tiny-vl");
  json["image_token_id"] = 67;
  CHECK_THAT(refusal_of(json), Contains("image_token_id: 67 is not below vocab_size=67"));
  json["image_token_id"] = 62;
  CHECK_THAT(refusal_of(json), Contains("video_token_id"));
}

TEST_CASE("older files with rope fields beside the others read the same") {
  const Json now = tiny("tiny-dense");
  Json old = now;
  old.erase("rope_parameters");
  old["rope_theta"] = now["rope_parameters"]["rope_theta"];
  old["partial_rotary_factor"] = 0.25;
  old["rope_scaling"] = {{"type", "mrope"}, {"mrope_section", {1, 1, 1}}, {"mrope_interleaved", true}};
  const ModelConfig a = parse(now), b = parse(old);
  CHECK(a.rope_theta == b.rope_theta);
  CHECK(a.rotary_dim == b.rotary_dim);
  CHECK(a.mrope_section == b.mrope_section);
  Json interval = now;
  interval.erase("layer_types");
  interval["full_attention_interval"] = 4;
  CHECK(parse(interval).full_attention == a.full_attention);
}

TEST_CASE("an absent mrope_section follows the library's default at any rotary width") {
  Json json = tiny("tiny-dense");
  json["rope_parameters"].erase("mrope_section");
  CHECK(parse(json).mrope_section == std::vector<std::int64_t>{1, 1, 1});
  json["head_dim"] = 16;  // rotary 4: two frequencies, t and h
  CHECK(parse(json).mrope_section == std::vector<std::int64_t>{1, 1, 0});
}

TEST_CASE("every wrong field of a config is refused and named") {
  struct Wrong {
    const char* field;
    Json value;
  };
  const std::vector<Wrong> wrongs = {
      {"model_type", "llama"},
      {"model_type", 5},
      {"hidden_size", 0},
      {"hidden_size", -24},
      {"hidden_size", 24.5},
      {"hidden_size", "24"},
      {"hidden_size", true},
      {"hidden_size", 18446744073709551615ull},
      {"vocab_size", 0},
      {"num_hidden_layers", 0},
      {"num_hidden_layers", 1000000000},
      {"num_attention_heads", 0},
      {"num_key_value_heads", 3},
      {"linear_num_key_heads", 5},
      {"linear_conv_kernel_dim", 0},
      {"intermediate_size", -1},
      {"rms_norm_eps", 0.0},
      {"rms_norm_eps", "small"},
      {"hidden_act", "gelu"},
      {"attention_bias", true},
      {"attn_output_gate", false},
      {"attention_dropout", 0.1},
      {"num_experts", 8},
      {"tie_word_embeddings", "no"},
      {"rope_parameters", 3},
      {"layer_types", "full_attention"},
  };
  for (const auto& wrong : wrongs) {
    Json json = tiny("tiny-dense");
    json[wrong.field] = wrong.value;
    const std::string said = refusal_of(json);
    INFO(wrong.field << " = " << wrong.value << " -> " << said);
    CHECK(said.rfind("config.json: " + std::string(wrong.field) + ":", 0) == 0);
    CHECK(said.find('\n') == std::string::npos);
  }
}

TEST_CASE("wrong entries inside lists and tables of a config are named by their place") {
  Json json = tiny("tiny-dense");
  json["layer_types"][2] = "sliding_attention";
  CHECK(refusal_of(json).find("layer_types[2]") != std::string::npos);
  json = tiny("tiny-dense");
  json["layer_types"].erase(0);
  CHECK(refusal_of(json).find("layer_types: has 4 entries") != std::string::npos);
  json = tiny("tiny-dense");
  json["rope_parameters"]["mrope_section"] = {1, 1, 2};
  CHECK(refusal_of(json).find("rope_parameters.mrope_section: sums to 4") != std::string::npos);
  json = tiny("tiny-dense");
  json["rope_parameters"]["rope_type"] = "yarn";
  CHECK(refusal_of(json).find("rope_parameters.rope_type") != std::string::npos);
  json = tiny("tiny-dense");
  json["rope_parameters"]["partial_rotary_factor"] = 0.2;  // 4.8 truncates to 4, whose half the sections miss
  CHECK(refusal_of(json).find("mrope_section") != std::string::npos);
  json = tiny("tiny-moe");
  json["num_experts_per_tok"] = 13;
  CHECK(refusal_of(json).find("num_experts_per_tok: 13 is more than num_experts=12") != std::string::npos);
}

TEST_CASE("what is no config at all is refused in one line") {
  for (const char* text : {"", "{", "[]", "null", "3", "\xff\xfe", "{\"model_type\":\"qwen3_5_text\"}}"}) {
    INFO(text);
    CHECK_THROWS_AS(parse_model_config(text, "config.json"), InputError);
  }
  CHECK_THROWS_WITH(load_model("no-such-model"),
                    Catch::Contains("no-such-model") && Catch::Contains("tiny-dense"));
  CHECK_THROWS_WITH(load_model("/no/such/config.json"), Catch::Contains("/no/such/config.json"));
  CHECK_THROWS_AS(load_model(""), InputError);
  CHECK_THROWS_WITH(load_model("/"), Catch::Contains("config.json"));
}

TEST_CASE("sizes whose product overflows are refused, not multiplied") {
  Json json = tiny("tiny-moe");
  json["num_experts"] = 2000000000;
  json["moe_intermediate_size"] = 2000000000;
  json["hidden_size"] = 2000000000;
  CHECK(refusal_of(json).find("1e14 parameters") != std::string::npos);
}

}  // namespace meshparity::scenarios

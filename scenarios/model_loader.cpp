// A Hugging Face config.json of Qwen3.5 (text or multimodal, dense or mixture of experts) as a ModelConfig. A
// multimodal one without vision_config has no tower. Absent fields take Hugging Face's class defaults
// (transformers 5.23, models/qwen3_5 and qwen3_5_moe); a field whose value would change the mathematics
// beyond what is implemented is refused by name. To read a new field: add it to ModelConfig, read it here,
// and add a line to model_loader_test.cpp.
#include <cmath>
#include <filesystem>

#include "harness/types/error.h"
#include "harness/types/model_shape.h"
#include "scenarios/fields.h"
#include "scenarios/load.h"
#include "scenarios/paths.h"
#include "scenarios/shape_model.h"

namespace meshparity::scenarios {
namespace {

constexpr std::int64_t kMostLayers = 4096;
constexpr long double kMostParameters = 1e14L;

bool moe_of(const std::string& type, const Fields& at) {
  if (type == "qwen3_5_text" || type == "qwen3_5") return false;
  if (type == "qwen3_5_moe_text" || type == "qwen3_5_moe") return true;
  at.fail("model_type",
          "'" + type + "' is not Qwen3.5's; known are qwen3_5, qwen3_5_text, qwen3_5_moe, qwen3_5_moe_text");
}

// Fields that are only right at one value: a model with another would be computed as if it had this one.
void refuse_other_mathematics(const Fields& f) {
  const auto text_must_be = [&](const char* key, std::initializer_list<std::string_view> allowed) {
    if (!f.has(key)) return;
    const std::string value = f.text(key);
    for (const auto a : allowed)
      if (value == a) return;
    f.fail(key, "'" + value + "' is not supported; Qwen3.5 has '" + std::string(*allowed.begin()) + "'");
  };
  const auto flag_must_be = [&](const char* key, bool want) {
    if (f.flag_or(key, want) != want)
      f.fail(key, std::string("must be ") + (want ? "true" : "false") + " in Qwen3.5");
  };
  text_must_be("hidden_act", {"silu", "swish"});
  text_must_be("output_gate_type", {"swish", "silu"});
  flag_must_be("attention_bias", false);
  flag_must_be("attn_output_gate", true);
  flag_must_be("norm_topk_prob", true);
  if (f.number_or("attention_dropout", 0) != 0)
    f.fail("attention_dropout", "must be 0: dropout has no parity");
  if (f.has("mlp_only_layers") && !f.raw("mlp_only_layers").empty())
    f.fail("mlp_only_layers", "must be empty: every layer of a Qwen3.5 mixture-of-experts model has experts");
  if (f.whole_or("decoder_sparse_step", 1) != 1) f.fail("decoder_sparse_step", "must be 1 in Qwen3.5");
}

void read_rope(const Fields& f, ModelConfig& c) {
  // transformers 5 writes rope_parameters; older files have rope_theta, partial_rotary_factor and
  // rope_scaling beside the other fields. A value in the table wins over one beside it, as in the library.
  static const Json kNone = Json::object();
  const char* key = f.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const Fields rope = f.has(key) ? f.table(key) : Fields(kNone, "", "");
  const bool in_table = f.has(key);
  const auto type_key = rope.has("rope_type") ? "rope_type" : "type";
  const std::string type = in_table ? rope.text_or(type_key, "default") : "default";
  if (type != "default" && type != "mrope")
    rope.fail(type_key, "'" + type + "' is not supported; Qwen3.5 has 'default'");
  if (in_table && !rope.flag_or("mrope_interleaved", true))
    rope.fail("mrope_interleaved", "must be true in Qwen3.5");

  const Fields& theta = in_table && rope.has("rope_theta") ? rope : f;
  c.rope_theta = theta.number_or("rope_theta", 10000.0);  // the class default; every published file says 1e7
  if (!(c.rope_theta > 1)) theta.fail("rope_theta", "must be above 1");

  const Fields& partial = in_table && rope.has("partial_rotary_factor") ? rope : f;
  const double factor = partial.number_or("partial_rotary_factor", 0.25);
  if (!(factor > 0 && factor <= 1)) partial.fail("partial_rotary_factor", "must be above 0 and at most 1");
  c.rotary_dim =
      static_cast<std::int64_t>(static_cast<double>(c.head_dim) * factor);  // truncates, as the library
  if (c.rotary_dim < 2 || c.rotary_dim % 2)
    partial.fail("partial_rotary_factor", "times head_dim=" + std::to_string(c.head_dim) +
                                              " gives a rotary width of " + std::to_string(c.rotary_dim) +
                                              ", which must be even and at least 2");

  const std::int64_t half = c.rotary_dim / 2;
  if (in_table && rope.has("mrope_section")) {
    c.mrope_section = rope.wholes("mrope_section", 0);
    if (c.mrope_section.size() != 3) rope.fail("mrope_section", "must have 3 entries (t, h, w)");
    const std::int64_t sum = c.mrope_section[0] + c.mrope_section[1] + c.mrope_section[2];
    if (sum != half)
      rope.fail("mrope_section", "sums to " + std::to_string(sum) +
                                     ", must be half the rotary width: " + std::to_string(half));
  } else {
    // The library's default [11,11,10]: what it makes of frequencies 0..half-1 (1 mod 3 below 33 are h, 2 mod
    // 3 below 30 are w, all others t).
    std::int64_t h = 0, w = 0;
    for (std::int64_t i = 0; i < half; ++i) h += i % 3 == 1 && i < 33, w += i % 3 == 2 && i < 30;
    c.mrope_section = {half - h - w, h, w};
  }
}

void read_layer_types(const Fields& f, ModelConfig& c) {
  if (f.has("layer_types")) {
    const auto types = f.texts("layer_types");
    if (static_cast<std::int64_t>(types.size()) != c.num_hidden_layers)
      f.fail("layer_types", "has " + std::to_string(types.size()) +
                                " entries for num_hidden_layers=" + std::to_string(c.num_hidden_layers));
    for (std::size_t i = 0; i < types.size(); ++i) {
      if (types[i] != "full_attention" && types[i] != "linear_attention")
        f.fail("layer_types[" + std::to_string(i) + "]",
               "'" + types[i] + "' is unknown; known are full_attention, linear_attention");
      c.full_attention.push_back(types[i] == "full_attention");
    }
    return;
  }
  const std::int64_t interval = f.whole_or("full_attention_interval", 4);
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) c.full_attention.push_back((i + 1) % interval == 0);
}

void read_ffn(const Fields& f, bool moe, ModelConfig& c) {
  if (!moe) {
    if (f.whole_or("num_experts", 0, 0) != 0) f.fail("num_experts", "a dense model_type has no experts");
    c.intermediate_size = f.whole_or("intermediate_size", 12288);
    return;
  }
  c.num_experts = f.whole_or("num_experts", 256);
  c.num_experts_per_tok = f.whole_or("num_experts_per_tok", 8);
  if (c.num_experts_per_tok > c.num_experts)
    f.fail("num_experts_per_tok", std::to_string(c.num_experts_per_tok) +
                                      " is more than num_experts=" + std::to_string(c.num_experts));
  c.moe_intermediate_size = f.whole_or("moe_intermediate_size", 512);
  c.shared_expert_intermediate_size = f.whole_or("shared_expert_intermediate_size", 512);
  c.router_aux_loss_coef = f.number_or("router_aux_loss_coef", 0.001);
}

// The sizes of the tower and the ids of what it fills. Defaults: Hugging Face's Qwen3_5VisionConfig.
void read_vision(const Fields& top, ModelConfig& c) {
  if (!top.has("vision_config")) return;
  const Fields f = top.table("vision_config");
  VisionConfig& v = c.vision;
  v.depth = f.whole_or("depth", 27, 1, kMostLayers);
  v.hidden_size = f.whole_or("hidden_size", 1152);
  v.num_heads = f.whole_or("num_heads", 16);
  v.intermediate_size = f.whole_or("intermediate_size", 4304);
  v.in_channels = f.whole_or("in_channels", 3);
  v.patch_size = f.whole_or("patch_size", 16);
  v.temporal_patch_size = f.whole_or("temporal_patch_size", 2);
  v.spatial_merge_size = f.whole_or("spatial_merge_size", 2);
  v.out_hidden_size = f.whole_or("out_hidden_size", 3584);
  v.num_position_embeddings = f.whole_or("num_position_embeddings", 2304);
  if (v.hidden_size % v.num_heads || v.head_dim() % 4)
    f.fail("num_heads", std::to_string(v.num_heads) + " must divide hidden_size=" +
                            std::to_string(v.hidden_size) + " into heads whose width is a multiple of 4");
  if (v.out_hidden_size != c.hidden_size)
    f.fail("out_hidden_size", std::to_string(v.out_hidden_size) +
                                  " must be the text model's hidden_size=" + std::to_string(c.hidden_size));
  const auto side =
      static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(v.num_position_embeddings))));
  if (side * side != v.num_position_embeddings) f.fail("num_position_embeddings", "must be a square number");
  if (const std::string act = f.text_or("hidden_act", "gelu_pytorch_tanh"); act != "gelu_pytorch_tanh")
    f.fail("hidden_act", "'" + act + "' is not supported; Qwen3.5's tower has 'gelu_pytorch_tanh'");
  if (f.has("deepstack_visual_indexes") && !f.raw("deepstack_visual_indexes").empty())
    f.fail("deepstack_visual_indexes", "must be empty in Qwen3.5");
  const auto id = [&](const char* key, std::int64_t fallback) {
    const std::int64_t value = top.whole_or(key, fallback, 0);
    if (value >= c.vocab_size)
      top.fail(key, std::to_string(value) + " is not below vocab_size=" + std::to_string(c.vocab_size));
    return value;
  };
  c.image_token_id = id("image_token_id", 248056);
  c.video_token_id = id("video_token_id", 248057);
  c.vision_start_token_id = id("vision_start_token_id", 248053);
  c.vision_end_token_id = id("vision_end_token_id", 248054);
  if (c.text_vocabulary() < 1) top.fail("image_token_id", "and the other special ids must be above 0");
  if (c.image_token_id == c.video_token_id)
    top.fail("video_token_id", "is image_token_id=" + std::to_string(c.image_token_id) + " as well");
}

// The text model of a multimodal config.json, as a text-only one: what "text:MODEL" means.
Json text_of(const Json& root, const std::string& file) {
  const Fields top(root, file);
  Json text = top.has("text_config") ? root.at("text_config") : root;
  if (!text.is_object()) top.fail("text_config", "must be a table");
  if (!text.contains("model_type") && root.contains("model_type")) text["model_type"] = root["model_type"];
  if (root.contains("tie_word_embeddings")) text["tie_word_embeddings"] = root["tie_word_embeddings"];
  text.erase("mtp_num_hidden_layers");
  return text;
}

void must_divide(const Fields& f, const char* part_key, std::int64_t part, const char* whole_key,
                 std::int64_t whole) {
  if (whole % part)
    f.fail(part_key, std::to_string(part) + " must divide " + whole_key + "=" + std::to_string(whole));
}

}  // namespace

ModelConfig parse_model_config(const std::string& json, const std::string& file) {
  const Json root = parse_json(json, file);
  const Fields top(root, file);
  const bool nested = top.has("text_config");
  const Fields f = nested ? top.table("text_config") : top;
  const Fields& typed = f.has("model_type") ? f : top;
  const bool moe = moe_of(typed.text("model_type"), typed);
  if (nested && top.has("model_type") && moe_of(top.text("model_type"), top) != moe)
    typed.fail("model_type", "'" + typed.text("model_type") + "' is not the text model of '" +
                                 top.text("model_type") + "'");
  refuse_other_mathematics(f);

  ModelConfig c;
  c.name = file;
  c.json = json;
  c.vocab_size = f.whole_or("vocab_size", 248320);
  c.hidden_size = f.whole_or("hidden_size", moe ? 2048 : 4096);
  c.num_hidden_layers = f.whole_or("num_hidden_layers", moe ? 40 : 32, 1, kMostLayers);
  c.num_attention_heads = f.whole_or("num_attention_heads", 16);
  c.num_key_value_heads = f.whole_or("num_key_value_heads", moe ? 2 : 4);
  c.head_dim = f.whole_or("head_dim", 256);
  c.linear_num_key_heads = f.whole_or("linear_num_key_heads", 16);
  c.linear_num_value_heads = f.whole_or("linear_num_value_heads", 32);
  c.linear_key_head_dim = f.whole_or("linear_key_head_dim", 128);
  c.linear_value_head_dim = f.whole_or("linear_value_head_dim", 128);
  c.linear_conv_kernel_dim = f.whole_or("linear_conv_kernel_dim", 4);
  c.rms_norm_eps = f.number_or("rms_norm_eps", 1e-6);
  if (!(c.rms_norm_eps > 0 && c.rms_norm_eps < 1)) f.fail("rms_norm_eps", "must lie between 0 and 1");
  c.initializer_range = f.number_or("initializer_range", 0.02);
  if (!(c.initializer_range >= 0 && c.initializer_range <= 100))
    f.fail("initializer_range", "must lie between 0 and 100");
  must_divide(f, "num_key_value_heads", c.num_key_value_heads, "num_attention_heads", c.num_attention_heads);
  must_divide(f, "linear_num_key_heads", c.linear_num_key_heads, "linear_num_value_heads",
              c.linear_num_value_heads);
  read_ffn(f, moe, c);
  read_rope(f, c);
  read_layer_types(f, c);
  if (nested) read_vision(top, c);
  c.mtp_num_hidden_layers =
      (f.has("mtp_num_hidden_layers") ? f : top).whole_or("mtp_num_hidden_layers", 0, 0, 1);
  // In a multimodal file the flag at the top decides; the copy inside text_config is unreliable.
  c.tie_word_embeddings =
      (nested && top.has("tie_word_embeddings") ? top : f).flag_or("tie_word_embeddings", false);

  long double elements = 0;
  for (const auto& p : parameters_of(c)) {
    long double n = 1;
    for (auto s : p.shape) n *= static_cast<long double>(s);
    elements += n;
  }
  if (elements > kMostParameters)
    throw InputError(file, f.path("hidden_size"), "the sizes together give more than 1e14 parameters");
  return c;
}

ModelConfig without_multi_token_prediction(const ModelConfig& config) {
  Json root = parse_json(config.json, config.name);
  root["mtp_num_hidden_layers"] = 0;
  if (root.contains("text_config")) root["text_config"]["mtp_num_hidden_layers"] = 0;
  ModelConfig without = parse_model_config(root.dump(2), config.name);
  without.name = config.name;
  return without;
}

ModelConfig load_model(const std::string& name_or_path) {
  namespace fs = std::filesystem;
  if (is_shape(name_or_path)) return parse_model_shape(name_or_path);
  const std::string model(without_text_prefix(name_or_path));
  fs::path path = find_scenario(model, "models", ".json", "model");
  if (fs::is_directory(path)) path /= "config.json";
  std::string json = read_text(path.string());
  if (model.size() != name_or_path.size())
    json = text_of(parse_json(json, path.string()), path.string()).dump(2);
  ModelConfig config = parse_model_config(json, path.string());
  config.name = name_or_path;
  return config;
}

}  // namespace meshparity::scenarios

// scenarios/placements.toml resolved for one model: which dimension of a parameter tensor parallelism cuts,
// in which blocks. One [[parameter]] table per family of names:
//
//   [[parameter]]
//   name = "model.layers.*.linear_attn.in_proj_qkv.weight"   '*' stands for any run of characters
//   tp_dim = 0                                               absent or -1: replicated over tp
//   tp_blocks = [{count = "linear_num_key_heads", width = "linear_key_head_dim"}, ...]
//   expert = false                                           dimension 0 is cut over ep and edp instead of
//   fsdp
//   tower = false                                            tp cuts it only where the tower is
//   tensor-parallel
//
// count and width are whole numbers or products of fields and numbers ("2*head_dim"). The first table that
// matches a parameter holds, and its blocks must fill the dimension: a parameter nobody placed is an error,
// never a default.
#include <algorithm>

#include "harness/types/error.h"
#include "harness/types/glob.h"
#include "scenarios/fields.h"
#include "scenarios/load.h"

namespace meshparity::scenarios {
namespace {

struct NamedSize {
  const char* name;
  std::int64_t ModelConfig::*size;
};
constexpr NamedSize kSizes[] = {
    {"vocab_size", &ModelConfig::vocab_size},
    {"hidden_size", &ModelConfig::hidden_size},
    {"num_attention_heads", &ModelConfig::num_attention_heads},
    {"num_key_value_heads", &ModelConfig::num_key_value_heads},
    {"head_dim", &ModelConfig::head_dim},
    {"intermediate_size", &ModelConfig::intermediate_size},
    {"num_experts", &ModelConfig::num_experts},
    {"moe_intermediate_size", &ModelConfig::moe_intermediate_size},
    {"shared_expert_intermediate_size", &ModelConfig::shared_expert_intermediate_size},
    {"linear_num_key_heads", &ModelConfig::linear_num_key_heads},
    {"linear_num_value_heads", &ModelConfig::linear_num_value_heads},
    {"linear_key_head_dim", &ModelConfig::linear_key_head_dim},
    {"linear_value_head_dim", &ModelConfig::linear_value_head_dim},
    {"linear_conv_kernel_dim", &ModelConfig::linear_conv_kernel_dim},
};

struct VisionSize {
  const char* name;
  std::int64_t VisionConfig::*size;
};
constexpr VisionSize kVisionSizes[] = {
    {"vision.hidden_size", &VisionConfig::hidden_size},
    {"vision.num_heads", &VisionConfig::num_heads},
    {"vision.intermediate_size", &VisionConfig::intermediate_size},
};

// One factor of a product: digits or the name of a field.
std::int64_t factor(const std::string& word, const ModelConfig& config, const Fields& f,
                    const std::string& key) {
  if (!word.empty() && word.size() < 10 && word.find_first_not_of("0123456789") == std::string::npos)
    return std::stoll(word);
  for (const auto& s : kSizes)
    if (word == s.name) return config.*s.size;
  for (const auto& s : kVisionSizes)
    if (word == s.name) return config.vision.*s.size;
  if (word == "vision.head_dim") return config.vision.head_dim();
  if (word == "vision.merged_width") return config.vision.merged_width();
  f.fail(key, "'" + word + "' is neither a number nor a size of the model");
}

// A whole number or a product such as "2*head_dim".
std::int64_t product(const Fields& f, const std::string& key, std::int64_t fallback,
                     const ModelConfig& config) {
  if (!f.has(key)) return fallback;
  if (f.raw(key).is_number()) return f.whole(key);
  const std::string text = f.text(key);
  std::int64_t value = 1;
  std::size_t begin = 0;
  while (begin <= text.size()) {
    const std::size_t end = std::min(text.find('*', begin), text.size());
    std::string word = text.substr(begin, end - begin);
    word.erase(0,
               word.find_first_not_of(' ') == std::string::npos ? word.size() : word.find_first_not_of(' '));
    word.erase(word.find_last_not_of(' ') + 1);
    value *= factor(word, config, f, key);
    begin = end + 1;
  }
  return value;
}

ParameterPlacement resolve(const Fields& rule, const ParameterInfo& parameter, const ModelConfig& config) {
  ParameterPlacement placement;
  placement.name = parameter.name;
  placement.shape = parameter.shape;
  const int dims = static_cast<int>(parameter.shape.size());
  placement.tp_dim = static_cast<int>(rule.whole_or("tp_dim", -1, -1, dims - 1));
  placement.fsdp_dim = static_cast<int>(rule.whole_or("fsdp_dim", 0, 0, dims - 1));
  placement.expert = rule.flag_or("expert", false);
  placement.tower = rule.flag_or("tower", false);
  if (placement.tp_dim < 0) {
    if (rule.has("tp_blocks")) rule.fail("tp_blocks", "given without tp_dim");
    return placement;
  }
  std::int64_t filled = 0;
  for (const Fields& block : rule.tables("tp_blocks")) {
    block.only({"count", "width", "replicate"});
    Block b;
    b.count = product(block, "count", 0, config);
    b.width = product(block, "width", 1, config);
    b.replicate = block.flag_or("replicate", false);
    if (b.count < 1 || b.width < 1) block.fail("count", "is empty for " + parameter.name);
    filled += b.count * b.width;
    placement.tp_blocks.push_back(b);
  }
  const std::int64_t size = parameter.shape[placement.tp_dim];
  if (filled != size)
    rule.fail("tp_blocks", "fill " + std::to_string(filled) + " of the " + std::to_string(size) +
                               " indices of " + parameter.name + " dimension " +
                               std::to_string(placement.tp_dim));
  return placement;
}

}  // namespace

PlacementTable load_placements(const ModelConfig& config) {
  const std::string file = (scenarios_dir() / "placements.toml").string();
  const Json json = parse_toml(read_text(file), file);
  const Fields top(json, file);
  top.only({"parameter"});
  const std::vector<Fields> rules = top.tables("parameter");
  for (const Fields& rule : rules) rule.only({"name", "tp_dim", "tp_blocks", "fsdp_dim", "expert", "tower"});

  PlacementTable table;
  for (const auto& parameter : parameters_of(config)) {
    const auto matches = [&](const Fields& rule) { return glob_match(rule.text("name"), parameter.name); };
    const auto rule = std::find_if(rules.begin(), rules.end(), matches);
    if (rule == rules.end()) throw InputError(file, "parameter", "no entry matches " + parameter.name);
    table.push_back(resolve(*rule, parameter, config));
  }
  return table;
}

}  // namespace meshparity::scenarios

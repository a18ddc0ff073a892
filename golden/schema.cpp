#include "golden/schema.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "golden/sha256.h"
#include "harness/types/error.h"

namespace meshparity::golden {
namespace {

using nlohmann::json;

constexpr std::int64_t kAny = -1;  // a dimension that nothing else in the file fixes
const std::set<std::string> kLosses = {"token_mean",    "sum",
                                       "sequence_mean", "micro_batch_mean",
                                       "num_tokens",    "policy_gradient",
                                       "lm_z",          "router_z",
                                       "aux",           "mtp"};

// What other parts of the file say about sizes; kAny where the file (a dump) does not say.
struct Sizes {
  std::int64_t tokens = kAny, documents = kAny, micro_batches = kAny, vocab = kAny, hidden = kAny;
};

enum class Values { integer, real };
struct Rule {
  Values values;
  Shape shape;
};

std::optional<json> text_config(const Store& store) {
  const auto found = store.strings.find("config");
  if (found == store.strings.end()) return std::nullopt;
  json config = json::parse(found->second, nullptr, false);
  if (!config.is_object()) throw InputError(store.file, "config", "is not a JSON object");
  if (const auto text = config.find("text_config"); text != config.end() && text->is_object()) return *text;
  return config;
}

std::int64_t config_size(const Store& store, const json& config, const char* field) {
  const auto value = config.find(field);
  if (value == config.end() || !value->is_number_integer() || value->get<std::int64_t>() < 1)
    throw InputError(store.file, std::string("config: ") + field, "must be a positive integer");
  return value->get<std::int64_t>();
}

std::int64_t first_dimension(const Store& store, const std::string& path) {
  const auto found = store.tensors.find(path);
  return found == store.tensors.end() || found->second.shape.size() != 1 ? kAny : found->second.shape[0];
}

Sizes sizes_of(const Store& store) {
  Sizes sizes;
  if (const auto config = text_config(store)) {
    sizes.vocab = config_size(store, *config, "vocab_size");
    sizes.hidden = config_size(store, *config, "hidden_size");
  }
  sizes.tokens = first_dimension(store, "inputs/token_ids");
  sizes.documents = first_dimension(store, "inputs/document_offsets");
  if (sizes.documents != kAny) --sizes.documents;
  sizes.micro_batches = first_dimension(store, "inputs/micro_batch_offsets");
  if (sizes.micro_batches != kAny)
    --sizes.micro_batches;
  else if (store.has("inputs/row_offsets"))
    sizes.micro_batches = 1;
  return sizes;
}

std::optional<Rule> input_rule(const std::string& name, const Sizes& s) {
  if (name == "token_ids" || name == "labels") return Rule{Values::integer, {s.tokens}};
  if (name == "document_offsets" || name == "row_offsets" || name == "micro_batch_offsets")
    return Rule{Values::integer, {kAny}};
  if (name == "position_ids") return Rule{Values::integer, {3, s.tokens}};
  if (name == "pixel_values" || name == "pixel_values_videos") return Rule{Values::real, {kAny, kAny}};
  if (name == "image_grid_thw" || name == "video_grid_thw") return Rule{Values::integer, {kAny, 3}};
  if (name == "advantages" || name == "old_logprobs") return Rule{Values::real, {s.tokens}};
  return std::nullopt;
}

// "step3/weights/x" -> 3 and "x"; 0 where `name` is something else.
int step_of(const std::string& name, std::string* weight) {
  if (after(name, "step").empty()) return 0;
  const auto slash = name.find('/');
  if (slash == std::string::npos || slash < 5 || slash > 10 || name[4] == '0') return 0;
  const std::string digits = name.substr(4, slash - 4);
  if (digits.find_first_not_of("0123456789") != std::string::npos) return 0;
  *weight = after(name.substr(slash + 1), "weights/");
  return weight->empty() ? 0 : std::stoi(digits);
}

bool is_layer_activation(const std::string& name) {
  const std::string rest = after(name, "layers.");
  const auto dot = rest.find('.');
  if (dot == 0 || dot == std::string::npos) return false;
  const std::string part = rest.substr(dot + 1);
  return rest.find_first_not_of("0123456789") == dot && (part == "mixer" || part == "ffn");
}

std::optional<Rule> expected_rule(const Store& store, const std::string& name, const Sizes& s) {
  if (name == "logits") return Rule{Values::real, {s.tokens, s.vocab}};
  if (name == "logprobs") return Rule{Values::real, {s.tokens}};
  if (name == "grad_norm") return Rule{Values::real, {}};
  if (const std::string loss = after(name, "loss/"); kLosses.count(loss)) return Rule{Values::real, {}};
  if (const std::string loss = after(name, "denominators/"); kLosses.count(loss)) {
    if (loss == "sequence_mean") return Rule{Values::real, {s.documents}};
    if (loss == "micro_batch_mean" || loss == "router_z" || loss == "aux")
      return Rule{Values::real, {s.micro_batches}};
    return Rule{Values::real, {}};
  }
  if (const std::string part = after(name, "activations/"); !part.empty()) {
    if (part != "embed" && part != "norm" && !is_layer_activation(part)) return std::nullopt;
    return Rule{Values::real, {s.tokens, s.hidden}};
  }
  std::string weight = after(name, "grads/");
  if (weight.empty()) weight = after(name, "grads_mtp/");
  if (weight.empty() && step_of(name, &weight) == 0) return std::nullopt;
  const auto found = store.tensors.find("weights/" + weight);
  if (found == store.tensors.end()) return std::nullopt;
  return Rule{Values::real, found->second.shape};
}

std::optional<Rule> rule_of(const Store& store, const std::string& path, const Sizes& sizes) {
  if (const std::string name = after(path, "inputs/"); !name.empty()) return input_rule(name, sizes);
  if (const std::string name = after(path, "expected/"); !name.empty())
    return expected_rule(store, name, sizes);
  if (const std::string name = after(path, "weights/");
      !name.empty() && name.find('/') == std::string::npos) {
    const bool table = name == "model.embed_tokens.weight" || name == "lm_head.weight";
    if (table) return Rule{Values::real, {sizes.vocab, sizes.hidden}};
    return Rule{Values::real, store.tensors.at(path).shape};
  }
  return std::nullopt;
}

void check_dtype(const Store& store, const std::string& path, DType got, Values want, Kind kind) {
  const bool images = after(path, "inputs/").find("pixel_values") == 0;
  std::string names;
  if (want == Values::integer && got != DType::int64) names = "int64";
  if (want == Values::real && !is_floating(got)) names = "a floating dtype";
  if (want == Values::real && kind == Kind::golden && !images && got != DType::float64) names = "float64";
  if (!names.empty())
    throw InputError(store.file, path, "has dtype " + std::string(dtype_name(got)) + ", must be " + names);
}

void check_shape(const Store& store, const std::string& path, const Shape& got, const Shape& want) {
  bool fits = got.size() == want.size();
  for (std::size_t i = 0; fits && i < got.size(); ++i) fits = want[i] == kAny || got[i] == want[i];
  if (fits) return;
  std::string text = "[";
  for (std::size_t i = 0; i < want.size(); ++i)
    text += (i ? "," : "") + (want[i] == kAny ? std::string("any") : std::to_string(want[i]));
  throw InputError(store.file, path, "has shape " + shape_text(got) + ", must be " + text + "]");
}

void check_finite(const Store& store, const std::string& path, const HostTensor& tensor) {
  const double* values = tensor.as<double>();
  for (std::int64_t i = 0, n = tensor.numel(); i < n; ++i)
    if (!std::isfinite(values[i]))
      throw InputError(store.file, path, "element " + std::to_string(i) + " is not a finite number");
}

void check_tensor(const Store& store, const std::string& path, const HostTensor& tensor, const Sizes& sizes,
                  Kind kind) {
  const auto rule = rule_of(store, path, sizes);
  if (!rule) {
    const bool orphan = path.find("expected/grads") == 0 || path.find("/weights/") != std::string::npos;
    throw InputError(store.file, path, orphan ? "belongs to no weight of this file" : "is not in the schema");
  }
  check_dtype(store, path, tensor.dtype, rule->values, kind);
  check_shape(store, path, tensor.shape, rule->shape);
  if (kind == Kind::golden && path.find("expected/") == 0) check_finite(store, path, tensor);
}

void check_required(const Store& store) {
  for (const char* path :
       {"config", "inputs/token_ids", "inputs/labels", "inputs/document_offsets", "inputs/row_offsets"})
    if (!store.has(path)) throw InputError(store.file, path, "is missing; a golden must have it");
  bool weights = false, expected = false;
  for (const auto& [path, tensor] : store.tensors) {
    weights |= !after(path, "weights/").empty();
    expected |= !after(path, "expected/").empty();
  }
  if (!weights) throw InputError(store.file, "weights", "is missing; a golden must have it");
  if (!expected) throw InputError(store.file, "expected", "is missing; a golden must have it");
}

void check_version(const Store& store, Kind kind) {
  const auto found = store.attributes.find("schema");
  if (found == store.attributes.end()) {
    if (kind == Kind::dump) return;
    throw InputError(store.file, "attribute schema",
                     "is missing; make the file anew with 'meshparity golden regenerate'");
  }
  if (found->second != std::to_string(kSchema))
    throw InputError(
        store.file, "attribute schema",
        "is " + found->second.substr(0, 40) + ", this version reads " + std::to_string(kSchema) +
            "; make the file anew with 'meshparity golden regenerate', or use the version that wrote it");
}

}  // namespace

std::string after(const std::string& path, const std::string& prefix) {
  return path.compare(0, prefix.size(), prefix) == 0 ? path.substr(prefix.size()) : std::string();
}

void verify_hashes(const RawContent& content, Kind kind) {
  const Store& store = content.store;
  if (kind == Kind::golden && content.stored.empty() && !store.attributes.count("content_sha256"))
    throw InputError(store.file + ": is no golden but a dump or another HDF5 file: it holds no hashes");
  for (const auto& [path, computed] : content.computed) {
    const auto stored = content.stored.find(path);
    if (stored == content.stored.end()) {
      if (kind == Kind::golden) throw InputError(store.file, path, "has no sha256; a golden must have it");
    } else if (stored->second != computed) {
      throw InputError(store.file, path, "damaged (its content does not match its sha256)");
    }
  }
  const auto whole = store.attributes.find("content_sha256");
  if (whole == store.attributes.end()) {
    if (kind == Kind::golden)
      throw InputError(store.file, "attribute content_sha256", "is missing; a golden must have it");
    return;
  }
  if (whole->second != hash_of_hashes(content.computed))
    throw InputError(store.file, "attribute content_sha256",
                     "damaged (a dataset was added, lost or changed)");
}

void check_schema(const Store& store, Kind kind) {
  check_version(store, kind);
  if (kind == Kind::golden) check_required(store);
  for (const auto& [path, text] : store.strings)
    if (path != "config" && path != "train")
      throw InputError(store.file, path, "is a string; only config and train are");
  const Sizes sizes = sizes_of(store);
  const auto is_expected = [](const std::string& path) { return !after(path, "expected/").empty(); };
  for (const auto& [path, tensor] : store.tensors)
    if (!is_expected(path)) check_tensor(store, path, tensor, sizes, kind);
  // What a dump computed is for the comparison to judge, wrong shapes and unknown names included.
  if (kind == Kind::golden)
    for (const auto& [path, tensor] : store.tensors)
      if (is_expected(path)) check_tensor(store, path, tensor, sizes, kind);
  if (kind == Kind::golden) steps_of(store);
  const bool batch = store.has("inputs/token_ids") && store.has("inputs/document_offsets");
  if (kind == Kind::golden || (batch && store.has("inputs/labels") && store.has("inputs/row_offsets")))
    batch_of(store);
  if (kind == Kind::golden || store.has("train")) train_of(store);
}

void check_weights(const Store& store, const ModelConfig& config) {
  std::set<std::string> known;
  for (const auto& parameter : parameters_of(config)) {
    const std::string path = "weights/" + parameter.name;
    known.insert(path);
    const auto found = store.tensors.find(path);
    if (found == store.tensors.end()) throw InputError(store.file, path, "is missing");
    check_shape(store, path, found->second.shape, parameter.shape);
  }
  for (const auto& [path, tensor] : store.tensors)
    if (path.find("weights/") == 0 && !known.count(path))
      throw InputError(store.file, path, "is no parameter of this model");
}

std::int64_t vocab_of(const Store& store) {
  if (const auto config = text_config(store)) return config_size(store, *config, "vocab_size");
  const auto logits = store.tensors.find("expected/logits");
  return logits != store.tensors.end() && logits->second.shape.size() == 2 ? logits->second.shape[1] : 0;
}

int steps_of(const Store& store) {
  std::set<int> steps;
  for (const auto& [path, tensor] : store.tensors) {
    std::string weight;
    if (const int step = step_of(after(path, "expected/"), &weight)) steps.insert(step);
  }
  int count = 0;
  for (const int step : steps)
    if (step != ++count)
      throw InputError(store.file, "expected/step" + std::to_string(count),
                       "is missing, later steps are there");
  return count;
}

}  // namespace meshparity::golden

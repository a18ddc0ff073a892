#include "harness/types/model_shape.h"

#include <charconv>
#include <utility>

#include "harness/types/error.h"

namespace meshparity {
namespace {

constexpr std::int64_t kMostLayers = 4096;
constexpr std::int64_t kMostSize = std::int64_t{1} << 31;

// One field: its name and the numbers that its value holds, separated by '/'.
struct Field {
  const char* name;
  std::vector<std::int64_t ModelShape::*> numbers;
};

const std::vector<Field>& fields() {
  using M = ModelShape;
  static const std::vector<Field> table = {
      {"hidden", {&M::hidden}},
      {"heads", {&M::heads, &M::kv_heads}},
      {"head_dim", {&M::head_dim}},
      {"rope", {&M::rope}},
      {"gdn", {&M::gdn_key_heads, &M::gdn_value_heads}},
      {"key", {&M::gdn_key_dim}},
      {"value", {&M::gdn_value_dim}},
      {"conv", {&M::conv}},
      {"ffn", {&M::ffn}},
      {"vocab", {&M::vocab}},
      {"experts", {&M::experts, &M::top_k, &M::expert_width}},
      {"shared", {&M::shared}},
      {"vision", {&M::vision_depth, &M::vision_heads, &M::vision_head_dim, &M::vision_ffn}},
      {"grid", {&M::grid}},
  };
  return table;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const auto at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

bool is_number(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

void read_numbers(const std::string& text, const Field& field, std::string_view value, ModelShape& shape) {
  const auto parts = split(value, '/');
  if (parts.size() != field.numbers.size())
    throw InputError(text, field.name,
                     "needs " + std::to_string(field.numbers.size()) +
                         (field.numbers.size() > 1 ? " numbers separated by '/'" : " number") + ", is '" +
                         std::string(value) + "'");
  for (std::size_t i = 0; i < parts.size(); ++i)
    shape.*field.numbers[i] = field_number(text, field.name, parts[i], 1, kMostSize);
}

// A pattern of letters, or a count that `period` turns into one.
std::string read_layers(const std::string& text, const std::string& value, const std::string& period) {
  if (!is_number(value)) {
    if (!period.empty())
      throw InputError(text, "period", "goes with a number of layers, as in layers=8:period=4");
    if (value.empty() || value.size() > kMostLayers || value.find_first_not_of("ga") != std::string::npos)
      throw InputError(
          text, "layers",
          "needs a letter for every layer, g (GatedDeltaNet) or a (attention), or a number from 1 to " +
              std::to_string(kMostLayers) + "; is '" + value + "'");
    return value;
  }
  const std::int64_t count = field_number(text, "layers", value, 1, kMostLayers);
  const std::int64_t every = period.empty() ? 4 : field_number(text, "period", period, 1, kMostSize);
  std::string layers;
  for (std::int64_t i = 0; i < count; ++i) layers += (i + 1) % every == 0 ? 'a' : 'g';
  return layers;
}

void check_sizes(const std::string& text, const ModelShape& s) {
  const auto fraction = [](std::int64_t a, std::int64_t b) {
    return std::to_string(a) + "/" + std::to_string(b);
  };
  if (s.heads % s.kv_heads)
    throw InputError(text, "heads",
                     fraction(s.heads, s.kv_heads) + ": the key-value heads must divide the heads");
  if (s.gdn_value_heads % s.gdn_key_heads)
    throw InputError(
        text, "gdn",
        fraction(s.gdn_key_heads, s.gdn_value_heads) + ": the key heads must divide the value heads");
  if (s.rope % 2 || s.rope > s.head_dim)
    throw InputError(
        text, "rope",
        "must be even and at most head_dim=" + std::to_string(s.head_dim) + ", is " + std::to_string(s.rope));
  if (s.top_k > s.experts)
    throw InputError(text, "experts",
                     fraction(s.experts, s.top_k) + ": more experts per token than there are");
  if (s.vision_head_dim % 4)
    throw InputError(text, "vision",
                     "the width of a head must be a multiple of 4, is " + std::to_string(s.vision_head_dim));
  if (s.has_vision() && s.vocab < 5)
    throw InputError(text, "vocab", "must be at least 5 with vision, four of which are no text");
}

}  // namespace

std::vector<std::pair<std::string, std::string>> named_fields(const std::string& text,
                                                              std::string_view fields) {
  std::vector<std::pair<std::string, std::string>> list;
  if (fields.empty()) return list;
  for (const auto part : split(fields, ':')) {
    const auto equals = part.find('=');
    if (equals == std::string_view::npos || equals == 0)
      throw InputError(text + ": '" + std::string(part) + "' is no field; one looks like vocab=23");
    const std::string name(part.substr(0, equals));
    for (const auto& [earlier, value] : list)
      if (earlier == name) throw InputError(text, name, "is given twice");
    list.emplace_back(name, part.substr(equals + 1));
  }
  return list;
}

std::int64_t field_number(const std::string& text, const std::string& field, std::string_view digits,
                          std::int64_t least, std::int64_t most) {
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (!is_number(digits) || error != std::errc() || end != digits.data() + digits.size() || number < least ||
      number > most)
    throw InputError(text, field,
                     "must be a whole number from " + std::to_string(least) + " to " + std::to_string(most) +
                         ", is '" + std::string(digits) + "'");
  return number;
}

std::string ModelShape::text() const {
  const ModelShape plain;
  std::string out;
  const auto add = [&](const std::string& name, const std::string& value) {
    out += (out.empty() ? "" : ":") + name + "=" + value;
  };
  if (layers != plain.layers) add("layers", layers);
  for (const auto& field : fields()) {
    std::string value;
    bool differs = false;
    for (const auto number : field.numbers) {
      differs |= this->*number != plain.*number;
      value += (value.empty() ? "" : "/") + std::to_string(this->*number);
    }
    if (differs) add(field.name, value);
  }
  if (tied) add("tied", "1");
  if (mtp) add("mtp", "1");
  return std::string(kShapePrefix) + out;
}

ModelShape ModelShape::parse(std::string_view given) {
  const std::string text(given);
  if (!is_shape(given)) throw InputError(text + ": a shape starts with " + std::string(kShapePrefix));
  ModelShape shape;
  std::string layers = shape.layers, period;
  bool ffn = false, shared = false, grid = false;
  for (const auto& [name, value] : named_fields(text, given.substr(kShapePrefix.size()))) {
    ffn |= name == "ffn", shared |= name == "shared", grid |= name == "grid";
    bool known = true;
    if (name == "layers") {
      layers = value;
    } else if (name == "period") {
      period = value.empty() ? "none" : value;
    } else if (name == "tied") {
      shape.tied = field_number(text, name, value, 0, 1) == 1;
    } else if (name == "mtp") {
      shape.mtp = field_number(text, name, value, 0, 1) == 1;
    } else {
      known = false;
      for (const auto& field : fields())
        if (name == field.name) known = true, read_numbers(text, field, value, shape);
    }
    if (known) continue;
    std::string list = "layers, period, tied, mtp";
    for (const auto& field : fields()) list += std::string(", ") + field.name;
    throw InputError(text, name, "unknown field; known are " + list);
  }
  shape.layers = read_layers(text, layers, period);
  if (ffn && shape.is_moe()) throw InputError(text, "ffn", "is of dense models; with experts there is none");
  if (shared && !shape.is_moe())
    throw InputError(text, "shared", "goes with experts, as in experts=6/2/4:shared=4");
  if (grid && !shape.has_vision()) throw InputError(text, "grid", "goes with vision, as in vision=1/2/4/6");
  check_sizes(text, shape);
  return shape;
}

}  // namespace meshparity

// TOML text as a JSON table, so that every loader reads fields through fields.h. The only file that sees
// toml++.
#include <toml++/toml.h>

#include <sstream>

#include "harness/types/error.h"
#include "scenarios/fields.h"

namespace meshparity::scenarios {
namespace {

Json to_json(const toml::node& node) {
  if (const auto* table = node.as_table()) {
    Json json = Json::object();
    for (const auto& [key, value] : *table) json[std::string(key.str())] = to_json(value);
    return json;
  }
  if (const auto* array = node.as_array()) {
    Json json = Json::array();
    for (const auto& value : *array) json.push_back(to_json(value));
    return json;
  }
  if (const auto value = node.value_exact<std::int64_t>()) return *value;
  if (const auto value = node.value_exact<double>()) return *value;
  if (const auto value = node.value_exact<bool>()) return *value;
  if (const auto value = node.value_exact<std::string>()) return *value;
  // Dates: no file of ours has one; as text, the field's reader refuses it by name.
  std::ostringstream text;
  text << toml::node_view<const toml::node>(node);
  return text.str();
}

}  // namespace

Json parse_toml(const std::string& text, const std::string& file) {
  try {
    return to_json(toml::parse(text, file));
  } catch (const toml::parse_error& e) {
    throw InputError(file + ": line " + std::to_string(e.source().begin.line) +
                     ": not TOML: " + std::string(e.description()));
  }
}

}  // namespace meshparity::scenarios

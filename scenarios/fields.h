// Strict reading of one table of named fields (JSON or TOML): every wrong or missing field is an InputError
// that names the file and the field's path. To read a new kind of value, add one function here; loaders never
// touch raw JSON types.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace meshparity::scenarios {

using Json = nlohmann::json;

// No size of a model or batch is larger; products of three stay inside 64 bits.
constexpr std::int64_t kLargestSize = std::int64_t{1} << 31;

class Fields {
 public:
  // `table` must outlive this; `prefix` is the path of the table inside the file ("text_config", "" at the
  // top).
  Fields(const Json& table, std::string file, std::string prefix = "");

  bool has(const std::string& key) const;  // present and not null
  std::string path(const std::string& key) const;
  [[noreturn]] void fail(const std::string& key, const std::string& what) const;

  // Throws unless every key of the table is one of `known`.
  void only(std::initializer_list<std::string_view> known) const;

  // A whole number in [least, most]; the forms with a fallback return it where the field is absent or null.
  std::int64_t whole(const std::string& key, std::int64_t least = 1, std::int64_t most = kLargestSize) const;
  std::int64_t whole_or(const std::string& key, std::int64_t fallback, std::int64_t least = 1,
                        std::int64_t most = kLargestSize) const;
  // A finite number.
  double number(const std::string& key) const;
  double number_or(const std::string& key, double fallback) const;
  bool flag_or(const std::string& key, bool fallback) const;
  std::string text(const std::string& key) const;
  std::string text_or(const std::string& key, const std::string& fallback) const;
  std::vector<std::int64_t> wholes(const std::string& key, std::int64_t least,
                                   std::int64_t most = kLargestSize) const;
  std::vector<std::string> texts(const std::string& key) const;
  Fields table(const std::string& key) const;
  std::vector<Fields> tables(const std::string& key) const;
  const Json& raw(const std::string& key) const;  // throws where absent
  std::vector<std::string> keys() const;

 private:
  const Json* table_;
  std::string file_;
  std::string prefix_;
};

// A whole number in [least, most] or an InputError naming `field`.
std::int64_t whole_of(const Json& value, const std::string& file, const std::string& field,
                      std::int64_t least, std::int64_t most);

// The text of a file of at most 64 MiB; InputError where it cannot be read.
std::string read_text(const std::string& path);
// A JSON or TOML file as a table.
Json parse_json(const std::string& text, const std::string& file);
Json parse_toml(const std::string& text, const std::string& file);

}  // namespace meshparity::scenarios

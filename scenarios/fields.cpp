#include "scenarios/fields.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "harness/types/error.h"

namespace meshparity::scenarios {
namespace {

// A value as an error message shows it: short, on one line.
std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 40) text = text.substr(0, 37) + "...";
  return text;
}

}  // namespace

Fields::Fields(const Json& table, std::string file, std::string prefix)
    : table_(&table), file_(std::move(file)), prefix_(std::move(prefix)) {
  if (!table.is_object())
    throw InputError(file_, prefix_.empty() ? "top level" : prefix_, "must be a table of named fields");
}

bool Fields::has(const std::string& key) const {
  const auto it = table_->find(key);
  return it != table_->end() && !it->is_null();
}

std::string Fields::path(const std::string& key) const {
  return prefix_.empty() ? key : prefix_ + "." + key;
}

void Fields::fail(const std::string& key, const std::string& what) const {
  throw InputError(file_, path(key), what);
}

void Fields::only(std::initializer_list<std::string_view> known) const {
  for (const auto& [key, value] : table_->items())
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      std::string list;
      for (const auto k : known) list += (list.empty() ? "" : ", ") + std::string(k);
      fail(key, "unknown field; known are " + list);
    }
}

const Json& Fields::raw(const std::string& key) const {
  if (!has(key)) fail(key, "missing");
  return table_->at(key);
}

std::int64_t whole_of(const Json& value, const std::string& file, const std::string& field,
                      std::int64_t least, std::int64_t most) {
  if (!value.is_number_integer()) throw InputError(file, field, "must be a whole number, is " + shown(value));
  // An unsigned number above 2^63 would wrap to a negative one.
  const bool wraps = value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t(INT64_MAX);
  if (wraps || value.get<std::int64_t>() < least || value.get<std::int64_t>() > most)
    throw InputError(
        file, field,
        "must be from " + std::to_string(least) + " to " + std::to_string(most) + ", is " + shown(value));
  return value.get<std::int64_t>();
}

std::int64_t Fields::whole(const std::string& key, std::int64_t least, std::int64_t most) const {
  return whole_of(raw(key), file_, path(key), least, most);
}

std::int64_t Fields::whole_or(const std::string& key, std::int64_t fallback, std::int64_t least,
                              std::int64_t most) const {
  return has(key) ? whole(key, least, most) : fallback;
}

double Fields::number(const std::string& key) const {
  const Json& value = raw(key);
  if (!value.is_number()) fail(key, "must be a number, is " + shown(value));
  const double number = value.get<double>();
  if (!std::isfinite(number)) fail(key, "must be finite");
  return number;
}

double Fields::number_or(const std::string& key, double fallback) const {
  return has(key) ? number(key) : fallback;
}

bool Fields::flag_or(const std::string& key, bool fallback) const {
  if (!has(key)) return fallback;
  const Json& value = raw(key);
  if (!value.is_boolean()) fail(key, "must be true or false, is " + shown(value));
  return value.get<bool>();
}

std::string Fields::text(const std::string& key) const {
  const Json& value = raw(key);
  if (!value.is_string()) fail(key, "must be text, is " + shown(value));
  return value.get<std::string>();
}

std::string Fields::text_or(const std::string& key, const std::string& fallback) const {
  return has(key) ? text(key) : fallback;
}

std::vector<std::int64_t> Fields::wholes(const std::string& key, std::int64_t least,
                                         std::int64_t most) const {
  const Json& value = raw(key);
  if (!value.is_array()) fail(key, "must be a list, is " + shown(value));
  std::vector<std::int64_t> list;
  for (std::size_t i = 0; i < value.size(); ++i)
    list.push_back(whole_of(value[i], file_, path(key) + "[" + std::to_string(i) + "]", least, most));
  return list;
}

std::vector<std::string> Fields::texts(const std::string& key) const {
  const Json& value = raw(key);
  if (!value.is_array()) fail(key, "must be a list, is " + shown(value));
  std::vector<std::string> list;
  for (std::size_t i = 0; i < value.size(); ++i) {
    if (!value[i].is_string())
      fail(key + "[" + std::to_string(i) + "]", "must be text, is " + shown(value[i]));
    list.push_back(value[i].get<std::string>());
  }
  return list;
}

Fields Fields::table(const std::string& key) const {
  return Fields(raw(key), file_, path(key));
}

std::vector<Fields> Fields::tables(const std::string& key) const {
  const Json& value = raw(key);
  if (!value.is_array()) fail(key, "must be a list of tables, is " + shown(value));
  std::vector<Fields> list;
  for (std::size_t i = 0; i < value.size(); ++i)
    list.emplace_back(value[i], file_, path(key) + "[" + std::to_string(i) + "]");
  return list;
}

std::vector<std::string> Fields::keys() const {
  std::vector<std::string> list;
  for (const auto& [key, value] : table_->items()) list.push_back(key);
  return list;
}

std::string read_text(const std::string& path) {
  constexpr std::uintmax_t kMost = 64u << 20;
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (error || !std::filesystem::exists(status)) throw InputError(path + ": no such file");
  if (!std::filesystem::is_regular_file(status)) throw InputError(path + ": not a regular file");
  const auto size = std::filesystem::file_size(path, error);
  if (error || size > kMost) throw InputError(path + ": larger than 64 MiB, so no file of settings");
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) throw InputError(path + ": cannot be read");
  return text.str();
}

Json parse_json(const std::string& text, const std::string& file) {
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    // The library's message starts with its own error number in brackets.
    std::string what = e.what();
    if (const auto end = what.find("] "); end != std::string::npos) what = what.substr(end + 2);
    throw InputError(file + ": not JSON: " + what);
  }
}

}  // namespace meshparity::scenarios

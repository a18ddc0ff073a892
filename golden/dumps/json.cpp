// JSON into a tree: a list of numbers costs 8 bytes a number.
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "golden/dumps/formats.h"
#include "harness/types/error.h"

namespace meshparity::dumps {
namespace {

class TreeBuilder {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  TreeBuilder(std::string where, std::shared_ptr<Tree> tree)
      : where_(std::move(where)), tree_(std::move(tree)) {}

  bool null() {
    if (in_numbers()) return number(std::numeric_limits<double>::quiet_NaN());
    return add(tree_->make(Value::Kind::null));
  }
  bool boolean(bool value) { return number(value); }
  bool number_integer(number_integer_t value) { return number(static_cast<double>(value)); }
  bool number_unsigned(number_unsigned_t value) { return number(static_cast<double>(value)); }
  bool number_float(number_float_t value, const string_t&) { return number(value); }
  bool binary(binary_t&) { return false; }
  bool string(string_t& value) {
    Value* text = tree_->make(Value::Kind::text);
    text->text = std::move(value);
    return add(text);
  }
  bool start_object(std::size_t) { return open(tree_->make(Value::Kind::dictionary)); }
  bool start_array(std::size_t) { return open(tree_->make(Value::Kind::list)); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(string_t& value) {
    keys_.back() = std::move(value);
    return true;
  }
  // nlohmann's message repeats what it read last, which may be a whole line of numbers.
  bool parse_error(std::size_t at, const std::string& last, const nlohmann::json::exception&) {
    const std::string shown = last.size() > 24 ? "..." + last.substr(last.size() - 24) : last;
    throw InputError(where_ + ": is not JSON: at byte " + std::to_string(at) + " near '" + shown + "'" +
                     (last.find('N') != std::string::npos || last.find('I') != std::string::npos
                          ? " (NaN and Infinity are no JSON)"
                          : ""));
  }

 private:
  static constexpr std::size_t kDeepest = 64;

  bool in_numbers() const {
    return !open_.empty() && open_.back()->kind == Value::Kind::list && open_.back()->items.empty();
  }
  bool number(double value) {
    if (in_numbers()) {
      open_.back()->numbers.push_back(value);
      return true;
    }
    return add(number_node(value));
  }
  Value* number_node(double value) {
    Value* node = tree_->make(std::isnan(value) ? Value::Kind::null : Value::Kind::number);
    node->number = value;
    return node;
  }
  bool add(const Value* value) {
    if (open_.empty()) {
      tree_->root = value;
    } else if (open_.back()->kind == Value::Kind::dictionary) {
      open_.back()->members.emplace_back(keys_.back(), value);
    } else {
      for (const double number : open_.back()->numbers) open_.back()->items.push_back(number_node(number));
      open_.back()->numbers.clear();
      open_.back()->items.push_back(value);
    }
    return true;
  }
  bool open(Value* value) {
    if (open_.size() >= kDeepest) throw InputError(where_ + ": is nested deeper than 64");
    add(value);
    open_.push_back(value), keys_.emplace_back();
    return true;
  }
  bool close() {
    open_.pop_back(), keys_.pop_back();
    return true;
  }

  std::string where_;
  std::shared_ptr<Tree> tree_;
  std::vector<Value*> open_;
  std::vector<std::string> keys_;
};

}  // namespace

TreeRef read_json(const std::string& where, const std::string& text) {
  auto tree = std::make_shared<Tree>(where);
  TreeBuilder builder(where, tree);
  nlohmann::json::sax_parse(text, &builder);
  if (!tree->root) throw InputError(where + ": is empty");
  return tree;
}

}  // namespace meshparity::dumps

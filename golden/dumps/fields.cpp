// What the recognisers of records share: fields by name, rows, slots by lengths.
#include <algorithm>
#include <cmath>

#include "golden/dumps/record.h"
#include "harness/types/error.h"
#include "harness/types/generator.h"

namespace meshparity::dumps {
namespace {

std::string last_part(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

// The last `count` of `values`.
template <class T>
std::vector<T> tail_of(const std::vector<T>& values, std::size_t count) {
  return std::vector<T>(values.end() - static_cast<std::ptrdiff_t>(count), values.end());
}

}  // namespace

const Value* find_field(const Value& record, const std::vector<std::string>& names) {
  for (const std::string& name : names)
    for (const auto& [key, value] : record.members)
      if (last_part(key) == name && value->kind != Value::Kind::null) return value;
  return nullptr;
}

std::size_t row_count(const Value& field) {
  if (field.kind == Value::Kind::array)
    return field.array.shape.size() >= 2 ? static_cast<std::size_t>(field.array.shape[0]) : 1;
  if (field.kind == Value::Kind::list) return field.items.empty() ? 1 : field.items.size();
  return 0;
}

std::vector<double> read_row(const Value& field, std::size_t row) {
  if (field.kind == Value::Kind::array)
    return field.array.shape.size() >= 2 ? field.array.row(static_cast<std::int64_t>(row)).read()
                                         : field.array.read();
  if (field.kind != Value::Kind::list) return {};
  if (field.items.empty()) return field.numbers;
  const Value& item = *field.items.at(row);
  if (item.kind == Value::Kind::array) return item.array.read();
  if (item.kind != Value::Kind::list) return {};
  if (item.items.empty()) return item.numbers;
  std::vector<double> flat;  // [slots, layers, experts] of nested lists
  for (const Value* part : item.items) {
    if (part->kind == Value::Kind::array) {
      const auto numbers = part->array.read();
      flat.insert(flat.end(), numbers.begin(), numbers.end());
    }
    flat.insert(flat.end(), part->numbers.begin(), part->numbers.end());
    for (const Value* inner : part->items)
      flat.insert(flat.end(), inner->numbers.begin(), inner->numbers.end());
  }
  return flat;
}

std::vector<std::int64_t> to_integers(const std::vector<double>& values) {
  std::vector<std::int64_t> whole;
  whole.reserve(values.size());
  for (const double value : values)
    whole.push_back(value >= -9e15 && value <= 9e15 ? static_cast<std::int64_t>(value) : -1);
  return whole;
}

std::uint64_t hash_of(const std::vector<std::int64_t>& ids) {
  std::uint64_t hash = 0xCBF29CE484222325ull;
  for (const std::int64_t id : ids) hash = mix64(hash ^ static_cast<std::uint64_t>(id)) * 0x100000001B3ull;
  return hash;
}

std::int64_t id_of_text(const std::string& text) {
  constexpr char kPrefix[] = "token_id:";
  if (text.rfind(kPrefix, 0) == 0 && text.size() < 28 && text.size() > 9 &&
      text.find_first_not_of("0123456789", 9) == std::string::npos)
    return std::stoll(text.substr(9));
  return static_cast<std::int64_t>((name_hash(text) >> 12) | (std::uint64_t{1} << 52));
}

LogprobSide make_side(RawSide raw, const std::string& field, std::vector<std::string>& wrong) {
  LogprobSide side;
  const std::size_t n = raw.logprobs.size();
  const auto sizes = [&](const std::string& what, std::size_t size) {
    wrong.push_back(field + " has " + std::to_string(n) + " logprobs, and there are " + std::to_string(size) +
                    " " + what);
  };
  if (!raw.ids.empty() && raw.ids.size() < n) return sizes("token ids", raw.ids.size()), side;
  const std::size_t before = raw.ids.empty() ? 0 : raw.ids.size() - n;  // tokens without a logprob, in front
  side.first = static_cast<std::int64_t>(before);
  side.document_tokens = static_cast<std::int64_t>(raw.ids.size());
  if (raw.prompt_tokens >= 0 && before == 0)
    side.first = raw.prompt_tokens, side.document_tokens = raw.prompt_tokens + static_cast<std::int64_t>(n);
  if (!raw.ids.empty()) side.ids = before ? tail_of(raw.ids, n) : std::move(raw.ids);
  side.mask.assign(n, 1);
  side.has_mask = !raw.mask.empty();
  if (!raw.mask.empty()) {
    if (raw.mask.size() < n) return sizes("entries in its mask", raw.mask.size()), LogprobSide{};
    const std::size_t skip = raw.mask.size() - n;
    for (std::size_t i = 0; i < n; ++i) side.mask[i] = raw.mask[skip + i] != 0;
  }
  if (raw.route_width > 0 && raw.routes.size() % static_cast<std::size_t>(raw.route_width) == 0) {
    const std::size_t width = static_cast<std::size_t>(raw.route_width), rows = raw.routes.size() / width;
    // Routers run on the token before the one that is predicted, so a dump may hold one row less per sample.
    if (rows >= n)
      side.routes = tail_of(raw.routes, n * width), side.route_width = raw.route_width;
    else if (rows + 1 == n) {
      side.routes.assign(width, -1);
      side.routes.insert(side.routes.end(), raw.routes.begin(), raw.routes.end());
      side.route_width = raw.route_width;
    }
  }
  if (raw.nulls)
    for (std::size_t i = 0; i < n; ++i)
      if (std::isnan(raw.logprobs[i])) side.mask[i] = 0;
  side.logprobs = std::move(raw.logprobs);
  return side;
}

}  // namespace meshparity::dumps

#include "harness/compare/locate.h"

#include <vector>

namespace meshparity::compare {
namespace {

// "rows"/"row", "columns"/"column", "elements"/"element", "dim 0 indices".
std::string dimension_name(std::size_t dims, std::size_t d, bool one) {
  const char* const s = one ? "" : "s";
  if (dims == 1) return std::string("element") + s;
  if (dims == 2) return std::string(d == 0 ? "row" : "column") + s;
  return "dim " + std::to_string(d) + (one ? " index" : " indices");
}

// The indices of one dimension that occur, in words; empty where all of them do.
std::string describe(std::size_t dims, std::size_t d, const std::vector<bool>& seen) {
  const auto size = static_cast<std::int64_t>(seen.size());
  std::vector<std::int64_t> list;
  for (std::int64_t i = 0; i < size; ++i)
    if (seen[i]) list.push_back(i);
  const auto n = static_cast<std::int64_t>(list.size());
  if (n == size || n == 0) return "";
  const std::string name = dimension_name(dims, d, n == 1);
  const std::string of = " of " + std::to_string(size);
  if (n == 1) return name + " " + std::to_string(list[0]) + of;
  const std::int64_t step = list[1] - list[0];
  bool even = true;
  for (std::int64_t i = 1; i < n; ++i) even &= list[i] - list[i - 1] == step;
  const std::string ends = std::to_string(list.front()) + ".." + std::to_string(list.back());
  if (even && step == 1) return name + " " + ends + of;
  if (even && n > 2) return "every " + std::to_string(step) + "th of " + name + " " + ends + of;
  if (n <= 4) {
    std::string text = name;
    for (std::int64_t i = 0; i < n; ++i) text += (i ? "," : " ") + std::to_string(list[i]);
    return text + of;
  }
  return std::to_string(n) + " of " + name + " " + ends + of;
}

}  // namespace

Location locate(const Shape& shape, const std::function<bool(std::int64_t)>& member) {
  Location location;
  std::vector<std::vector<bool>> seen;
  for (const auto size : shape) seen.emplace_back(static_cast<std::size_t>(size), false);
  const std::int64_t n = shape_numel(shape);
  for (std::int64_t flat = 0; flat < n; ++flat) {
    if (!member(flat)) continue;
    ++location.count;
    std::int64_t rest = flat;
    for (std::size_t d = shape.size(); d-- > 0; rest /= shape[d]) seen[d][rest % shape[d]] = true;
  }
  if (location.count == 0) return location;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    const std::string part = describe(shape.size(), d, seen[d]);
    if (!part.empty()) location.text += (location.text.empty() ? "all in " : ", ") + part;
  }
  return location;
}

}  // namespace meshparity::compare

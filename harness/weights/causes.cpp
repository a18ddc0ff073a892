// To add a cause: a function that returns its text or nothing, and its place in the list at the end: certain
// ones first, special ones before general ones.
#include "harness/weights/causes.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>

#include "harness/weights/order.h"

namespace meshparity::weights {
namespace {

using Text = std::string;

Text number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

Text count(std::int64_t value) {
  return std::to_string(value);
}

template <class Holds>
bool everywhere(const Matrix& m, Holds&& holds) {
  for (std::int64_t i = 0; i < m.numel(); ++i)
    if (!holds(i)) return false;
  return true;
}

Text constant(const Matrix& sent, const Matrix& got) {
  if (got.numel() == 0) return "";
  const double first = got.at(0);
  if (!everywhere(got, [&](std::int64_t i) { return same(got.at(i), first); })) return "";
  if (everywhere(sent, [&](std::int64_t i) { return same(sent.at(i), sent.at(0)); })) return "";
  if (first != first) return "nothing but NaN: never written";
  return first == 0 ? "nothing but zeros: never written"
                    : "every element is " + number(first) + ": never loaded";
}

Text rounded_on_the_way(const TensorView& sent, const TensorView& got) {
  for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16}) {
    if (narrower(dtype, narrower(sent.dtype, got.dtype)) != dtype || dtype == got.dtype) continue;
    const Matrix whole(sent, sent.dtype), there(got, got.dtype);
    if (everywhere(there, [&](std::int64_t i) { return same(round_to(dtype, whole.at(i)), there.at(i)); }))
      return "rounded to " + Text(dtype_name(dtype)) + " on the way";
  }
  const Matrix whole(sent, sent.dtype), there(got, got.dtype);
  for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16})
    if (narrower(dtype, sent.dtype) == dtype && dtype != sent.dtype &&
        everywhere(there, [&](std::int64_t i) { return same(truncate_to(dtype, whole.at(i)), there.at(i)); }))
      return "cut off to " + Text(dtype_name(dtype)) + " instead of rounded";
  return "";
}

Text of_previous(const std::string& name, const Matrix& got, DType common, const Surroundings& around) {
  if (!around.previous) return "";
  const auto at = around.previous->find(name);
  if (at < 0) return "";
  const Matrix before(around.previous->view(static_cast<std::size_t>(at)), common);
  return same(before, got) ? "stale: equal to the previous version" : "";
}

Text another_weight(const std::string& name, const Matrix& got, const Surroundings& around) {
  if (!around.contents) return "";
  const auto found = around.contents->find(content_hash(got));
  if (found == around.contents->end()) return "";
  Text names;
  for (const Text& other : found->second)
    if (other != name) names += (names.empty() ? "" : ", ") + other;
  return names.empty() ? "" : "holds what was sent as " + names;
}

Text transposed(const Matrix& sent, const Matrix& got) {
  if (sent.shape().size() != 2 || sent.rows() != got.columns() || sent.columns() != got.rows()) return "";
  for (std::int64_t r = 0; r < got.rows(); ++r)
    for (std::int64_t c = 0; c < got.columns(); ++c)
      if (!same(got.at(r, c), sent.at(c, r))) return "";
  return "transposed";
}

// got = factor * sent, to a few roundings.
Text scaled(const Matrix& sent, const Matrix& got, double roundoff) {
  std::int64_t largest = 0;
  for (std::int64_t i = 1; i < sent.numel(); ++i)
    if (std::fabs(sent.at(i)) > std::fabs(sent.at(largest))) largest = i;
  if (sent.numel() < 2 || sent.at(largest) == 0) return "";
  const double factor = got.at(largest) / sent.at(largest);
  if (factor == 1 || factor == 0 || !std::isfinite(factor)) return "";
  const bool holds = everywhere(got, [&](std::int64_t i) {
    const double want = factor * sent.at(i);
    return std::fabs(got.at(i) - want) <= 4 * roundoff * std::fabs(want);
  });
  return holds ? "multiplied by " + number(factor) : "";
}

// got = sent + shift, to a few roundings of what is larger.
Text shifted(const Matrix& sent, const Matrix& got, double roundoff) {
  if (sent.numel() < 2) return "";
  const double shift = got.at(0) - sent.at(0);
  const double whole = std::nearbyint(shift) != 0 && std::fabs(shift - std::nearbyint(shift)) < 0.02
                           ? std::nearbyint(shift)
                           : shift;
  if (whole == 0 || !std::isfinite(whole)) return "";
  const bool holds = everywhere(got, [&](std::int64_t i) {
    const double want = sent.at(i) + whole;
    return std::fabs(got.at(i) - want) <=
           4 * roundoff * std::max({std::fabs(want), std::fabs(whole), std::fabs(sent.at(i))});
  });
  if (!holds) return "";
  const Text text = (whole > 0 ? "plus " : "minus ") + number(std::fabs(whole));
  return std::fabs(whole) == 1 ? text + ": a zero-centred norm taken for a plain one" : text;
}

Text permuted(const Matrix& sent, const Matrix& got) {
  if (const auto order = order_of(row_hashes(got), row_hashes(sent)))
    return "permuted: " + order_text(*order, "rows");
  if (got.columns() < 2) return "";
  if (const auto order = order_of(column_hashes(got), column_hashes(sent)))
    return "permuted: " + order_text(*order, "columns");
  return "";
}

// The smallest block of rows and columns outside of which everything is equal.
struct Block {
  std::int64_t row_begin = -1, row_end = 0, column_begin = 0, column_end = 0;
};

Block changed_block(const Matrix& sent, const Matrix& got) {
  Block b;
  b.column_begin = got.columns();
  for (std::int64_t r = 0; r < got.rows(); ++r)
    for (std::int64_t c = 0; c < got.columns(); ++c) {
      if (same(sent.at(r, c), got.at(r, c))) continue;
      if (b.row_begin < 0) b.row_begin = r;
      b.row_end = r + 1;
      b.column_begin = std::min(b.column_begin, c), b.column_end = std::max(b.column_end, c + 1);
    }
  return b;
}

// Where a block is one of several equal parts of n.
Text part_of(std::int64_t begin, std::int64_t end, std::int64_t n) {
  const std::int64_t size = end - begin;
  if (size <= 0 || n % size || begin % size || n == size) return "";
  return ", part " + count(begin / size) + " of " + count(n / size);
}

// What stands in a block of `got` that is not what was sent.
Text inside(const std::string& name, const Matrix& sent, const Matrix& got, const Block& b, DType common,
            const Surroundings& around) {
  const auto all = [&](auto&& holds) {
    for (std::int64_t r = b.row_begin; r < b.row_end; ++r)
      for (std::int64_t c = b.column_begin; c < b.column_end; ++c)
        if (!holds(r, c)) return false;
    return true;
  };
  if (all([&](std::int64_t r, std::int64_t c) { return got.at(r, c) == 0; })) return "zeros: never written";
  if (around.previous)
    if (const auto at = around.previous->find(name); at >= 0) {
      const Matrix before(around.previous->view(static_cast<std::size_t>(at)), common);
      if (before.shape() == got.shape() &&
          all([&](std::int64_t r, std::int64_t c) { return same(before.at(r, c), got.at(r, c)); }))
        return "stale: those of the previous version";
    }
  const std::int64_t rows = b.row_end - b.row_begin, columns = b.column_end - b.column_begin;
  const auto copy = [&](std::int64_t down, std::int64_t right) {
    return all(
        [&](std::int64_t r, std::int64_t c) { return same(got.at(r, c), sent.at(r + down, c + right)); });
  };
  for (std::int64_t from = 0; rows < got.rows() && from + rows <= got.rows(); from += rows)
    if (from != b.row_begin && copy(from - b.row_begin, 0))
      return "a copy of rows " + count(from) + " to " + count(from + rows - 1);
  for (std::int64_t from = 0; columns < got.columns() && from + columns <= got.columns(); from += columns)
    if (from != b.column_begin && copy(0, from - b.column_begin))
      return "a copy of columns " + count(from) + " to " + count(from + columns - 1);
  return "";
}

Cause partly(const std::string& name, const Matrix& sent, const Matrix& got, DType common,
             const Surroundings& around) {
  const Block b = changed_block(sent, got);
  if (b.row_begin < 0) return {};
  const bool all_rows = b.row_begin == 0 && b.row_end == got.rows(),
             all_columns = b.column_begin == 0 && b.column_end == got.columns();
  if (all_rows && all_columns) return {};
  Text text = "only ";
  if (!all_rows) {
    text += "rows " + count(b.row_begin) + " to " + count(b.row_end - 1) +
            part_of(b.row_begin, b.row_end, got.rows());
    if (!all_columns) text += " and ";
  }
  if (!all_columns)
    text += "columns " + count(b.column_begin) + " to " + count(b.column_end - 1) +
            part_of(b.column_begin, b.column_end, got.columns());
  const Text what = inside(name, sent, got, b, common, around);
  return what.empty() ? Cause{text + " differ", 0.5} : Cause{text + ": " + what, 1};
}

// Nothing exact holds: how far is it?
Cause distance(const std::string& name, const Matrix& sent, const Matrix& got, DType common,
               const Surroundings& around) {
  double difference = 0, size = 0, before = 0;
  std::ptrdiff_t at = around.previous ? around.previous->find(name) : -1;
  const Matrix old(at < 0 ? TensorView{} : around.previous->view(static_cast<std::size_t>(at)), common);
  const bool comparable = at >= 0 && old.shape() == got.shape();
  for (std::int64_t i = 0; i < got.numel(); ++i) {
    const double d = got.at(i) - sent.at(i);
    difference += d * d, size += sent.at(i) * sent.at(i);
    if (comparable) before += (got.at(i) - old.at(i)) * (got.at(i) - old.at(i));
  }
  if (!std::isfinite(difference)) return {"holds values that are no numbers", 0.9};
  const Text relative = number(std::sqrt(difference / std::max(size, 1e-300)));
  if (comparable && before < difference)
    return {"nearer to the previous version than to this one (relative distance " + relative + ")", 0.5};
  return {"no exact relation: relative distance " + relative +
              (difference < 0.01 * size ? ", another step or a quantisation" : ""),
          0.2};
}

}  // namespace

Cause cause_of_values(const std::string& name, const TensorView& sent_view, const TensorView& got_view,
                      const Surroundings& around) {
  const DType common = narrower(sent_view.dtype, got_view.dtype);
  const Matrix sent(sent_view, common), got(got_view, common);
  const double roundoff = unit_roundoff(common);
  // Exact relations of the whole tensor, then of a part of it.
  const std::function<Text()> exact[] = {[&] { return constant(sent, got); },
                                         [&] { return of_previous(name, got, common, around); },
                                         [&] { return another_weight(name, got, around); },
                                         [&] { return transposed(sent, got); },
                                         [&] { return rounded_on_the_way(sent_view, got_view); },
                                         [&] { return permuted(sent, got); },
                                         [&] { return scaled(sent, got, roundoff); },
                                         [&] { return shifted(sent, got, roundoff); }};
  for (const auto& relation : exact)
    if (const Text text = relation(); !text.empty()) return {text, 1};
  const Cause part = partly(name, sent, got, common, around);
  return part.text.empty() ? distance(name, sent, got, common, around) : part;
}

namespace {

// `longer` begins with `shorter`, further rows behind it.
Text padded(const std::string& name, const Matrix& sent, const Matrix& got) {
  if (sent.columns() != got.columns() || sent.rows() == got.rows()) return "";
  const bool longer = got.rows() > sent.rows();
  const Matrix &small = longer ? sent : got, &large = longer ? got : sent;
  for (std::int64_t i = 0; i < small.numel(); ++i)
    if (!same(small.at(i), large.at(i))) return "";
  bool zeros = true;
  for (std::int64_t i = small.numel(); i < large.numel(); ++i) zeros = zeros && large.at(i) == 0;
  const std::int64_t further = large.rows() - small.rows();
  const bool vocabulary = name.ends_with("embed_tokens.weight") || name.ends_with("lm_head.weight");
  if (longer)
    return count(further) + (vocabulary ? " padded rows of the vocabulary, " : " further rows, ") +
           (zeros ? "all zero" : "not zero") + ", left in";
  return "the last " + count(further) + " rows are not there" + (zeros ? ", which are zero" : "");
}

// got is one of n equal parts of sent, along either dimension.
Text one_part(const Matrix& sent, const Matrix& got) {
  const auto part = [&](bool rows) -> Text {
    const std::int64_t n = rows ? sent.rows() : sent.columns(), size = rows ? got.rows() : got.columns();
    if (size == 0 || size >= n || n % size ||
        (rows ? sent.columns() != got.columns() : sent.rows() != got.rows()))
      return "";
    for (std::int64_t begin = 0; begin < n; begin += size) {
      bool holds = true;
      for (std::int64_t r = 0; r < got.rows() && holds; ++r)
        for (std::int64_t c = 0; c < got.columns() && holds; ++c)
          holds = same(got.at(r, c), rows ? sent.at(begin + r, c) : sent.at(r, begin + c));
      if (holds)
        return "not gathered: part " + count(begin / size) + " of " + count(n / size) + " of the " +
               (rows ? "rows" : "columns");
    }
    return "";
  };
  const Text rows = part(true);
  return rows.empty() ? part(false) : rows;
}

// got repeats every block of sent's rows.
Text repeated(const Matrix& sent, const Matrix& got) {
  if (sent.rows() == 0 || got.rows() % sent.rows() || got.rows() == sent.rows() ||
      got.columns() != sent.columns())
    return "";
  const std::int64_t times = got.rows() / sent.rows();
  for (std::int64_t block = sent.rows(); block >= 1; --block) {
    if (sent.rows() % block) continue;
    bool holds = true;
    for (std::int64_t r = 0; r < got.rows() && holds; ++r)
      for (std::int64_t c = 0; c < got.columns() && holds; ++c)
        holds = same(got.at(r, c), sent.at(r / (block * times) * block + r % block, c));
    if (holds) return "every block of " + count(block) + " rows stands there " + count(times) + " times";
  }
  return "";
}

}  // namespace

Cause cause_of_shape(const std::string& name, const TensorView& sent_view, const TensorView& got_view) {
  const DType common = narrower(sent_view.dtype, got_view.dtype);
  const Matrix sent(sent_view, common), got(got_view, common);
  if (sent.numel() == got.numel()) {
    if (const Text text = transposed(sent, got); !text.empty()) return {text, 1};
    if (everywhere(got, [&](std::int64_t i) { return same(sent.at(i), got.at(i)); }))
      return {"the same elements in another shape", 1};
  }
  if (const Text text = padded(name, sent, got); !text.empty()) return {text, 1};
  if (const Text text = one_part(sent, got); !text.empty()) return {text, 1};
  if (const Text text = repeated(sent, got); !text.empty()) return {text, 1};
  return {};
}

}  // namespace meshparity::weights

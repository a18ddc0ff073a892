#include "harness/types/batch_shape.h"

#include "harness/types/error.h"
#include "harness/types/generator.h"
#include "harness/types/model_shape.h"

namespace meshparity {
namespace {

constexpr std::int64_t kMostTokens = std::int64_t{1} << 28;

std::vector<std::string_view> parts_of(std::string_view text, std::string_view separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const auto at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + separator.size());
  }
}

DocumentShape document_of(const std::string& text, std::string_view word, const std::string& field) {
  DocumentShape document;
  document.unlabelled = !word.empty() && word.back() == 'u';
  if (document.unlabelled) word.remove_suffix(1);
  document.tokens = field_number(text, field, word, 1, kMostTokens);
  return document;
}

std::vector<std::vector<RowShape>> micro_batches_of(const std::string& text, std::string_view lengths) {
  std::vector<std::vector<RowShape>> list;
  std::int64_t row = 0, total = 0;
  for (const auto micro_batch : parts_of(lengths, "//")) {
    list.emplace_back();
    for (const auto words : parts_of(micro_batch, "/")) {
      list.back().emplace_back();
      std::int64_t d = 0;
      for (const auto word : parts_of(words, "+")) {
        const std::string field = "row " + std::to_string(row) + ", document " + std::to_string(d++);
        list.back().back().push_back(document_of(text, word, field));
        total += list.back().back().back().tokens;
        if (total > kMostTokens)
          throw InputError(text, field, "the batch passes " + std::to_string(kMostTokens) + " tokens");
      }
      ++row;
    }
  }
  return list;
}

}  // namespace

std::int64_t BatchShape::tokens() const {
  std::int64_t total = 0;
  for (const auto& rows : micro_batches)
    for (const auto& row : rows)
      for (const auto& document : row) total += document.tokens;
  return total;
}

std::string BatchShape::text() const {
  std::string out;
  for (const auto& rows : micro_batches) {
    if (!out.empty()) out += "//";
    for (std::size_t r = 0; r < rows.size(); ++r) {
      if (r) out += "/";
      for (std::size_t d = 0; d < rows[r].size(); ++d)
        out += (d ? "+" : "") + std::to_string(rows[r][d].tokens) + (rows[r][d].unlabelled ? "u" : "");
    }
  }
  if (mask) out += ":mask=" + std::to_string(mask);
  if (seed) out += ":seed=" + std::to_string(seed);
  return std::string(kTokensPrefix) + out;
}

BatchShape BatchShape::parse(std::string_view given) {
  const std::string text(given);
  if (!is_batch_shape(given))
    throw InputError(text + ": a batch's lengths start with " + std::string(kTokensPrefix));
  given.remove_prefix(kTokensPrefix.size());
  BatchShape shape;
  const auto end = given.find(':');
  shape.micro_batches = micro_batches_of(text, given.substr(0, end));
  if (end == std::string_view::npos) return shape;
  for (const auto& [name, value] : named_fields(text, given.substr(end + 1))) {
    if (name == "mask")
      shape.mask = field_number(text, name, value, 0, 100);
    else if (name == "seed")
      shape.seed = field_number(text, name, value, 0, INT64_MAX);
    else
      throw InputError(text, name, "unknown field; known are mask, seed");
  }
  return shape;
}

Batch BatchShape::batch(std::int64_t vocab_size) const {
  Batch out;
  out.name = text();
  out.document_offsets = {0}, out.row_offsets = {0}, out.micro_batch_offsets = {0};
  std::vector<bool> labelled;  // per document
  for (const auto& rows : micro_batches) {
    for (const auto& row : rows) {
      for (const auto& document : row) {
        out.document_offsets.push_back(out.document_offsets.back() + document.tokens);
        labelled.push_back(!document.unlabelled);
      }
      out.row_offsets.push_back(out.documents());
    }
    out.micro_batch_offsets.push_back(out.rows());
  }
  const Generator ids(static_cast<std::uint64_t>(seed), "token_ids"),
      masked(static_cast<std::uint64_t>(seed), "mask");
  for (std::int64_t t = 0; t < tokens(); ++t)
    out.token_ids.push_back(ids.below(static_cast<std::uint64_t>(t), vocab_size));
  out.labels.assign(out.token_ids.size(), kIgnoreLabel);
  for (std::int64_t d = 0; d < out.documents(); ++d)
    for (std::int64_t t = out.document(d).begin; labelled[d] && t + 1 < out.document(d).end; ++t)
      if (masked.below(static_cast<std::uint64_t>(t), 100) >= mask) out.labels[t] = out.token_ids[t + 1];
  out.validate(out.name, vocab_size);
  return out;
}

}  // namespace meshparity

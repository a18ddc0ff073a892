#include "harness/types/batch_shape.h"

#include <algorithm>

#include "harness/types/cut.h"
#include "harness/types/error.h"
#include "harness/types/generator.h"
#include "harness/types/image_place.h"
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

constexpr std::int64_t kMerge = 2;

// "i4x2" or "v2x4x2".
ImageShape image_of(const std::string& text, std::string_view word, const std::string& field) {
  ImageShape image;
  image.video = word.front() == 'v';
  const auto numbers = parts_of(word.substr(1), "x");
  if (numbers.size() != (image.video ? 3 : 2))
    throw InputError(text, field, "'" + std::string(word) + "' is no image; one looks like i4x2 or v2x4x2");
  for (std::size_t i = 0; i < numbers.size(); ++i)
    image.grid[i + 3 - numbers.size()] = field_number(text, field, numbers[i], 1, kMostTokens);
  if (image.grid[1] % kMerge || image.grid[2] % kMerge)
    throw InputError(
        text, field,
        "'" + std::string(word) + "': rows and columns must be multiples of " + std::to_string(kMerge));
  return image;
}

DocumentShape document_of(const std::string& text, std::string_view word, const std::string& field) {
  DocumentShape document;
  document.unlabelled = !word.empty() && word.back() == 'u';
  if (document.unlabelled) word.remove_suffix(1);
  const std::size_t length = std::min(word.find_first_of("iv"), word.size());
  document.tokens = field_number(text, field, word.substr(0, length), 1, kMostTokens);
  word.remove_prefix(length);
  while (!word.empty()) {
    const std::size_t end = std::min(word.find_first_of("iv", 1), word.size());
    document.images.push_back(image_of(text, word.substr(0, end), field));
    word.remove_prefix(end);
  }
  if (document.image_tokens() > document.tokens)
    throw InputError(text, field,
                     "its images take " + std::to_string(document.image_tokens()) + " tokens of " +
                         std::to_string(document.tokens));
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

std::string document_text(const DocumentShape& document) {
  std::string out = std::to_string(document.tokens);
  for (const ImageShape& image : document.images) {
    out += image.video ? "v" + std::to_string(image.grid[0]) + "x" : "i";
    out += std::to_string(image.grid[1]) + "x" + std::to_string(image.grid[2]);
  }
  return out + (document.unlabelled ? "u" : "");
}

// The images of a document that begins at a token: text before each and behind the last, evenly.
void add_places(const DocumentShape& document, std::int64_t begin, std::vector<ImagePlace>& places) {
  const std::int64_t text = document.tokens - document.image_tokens();
  const auto gaps = static_cast<std::int64_t>(document.images.size()) + 1;
  std::int64_t taken = 0;
  for (std::int64_t i = 0; i + 1 < gaps; ++i) {
    const ImageShape& image = document.images[static_cast<std::size_t>(i)];
    places.push_back({begin + taken + cut(text, gaps, i).end, image.grid, image.video});
    taken += places.back().tokens(kMerge);
  }
}

}  // namespace

std::int64_t BatchShape::tokens() const {
  std::int64_t total = 0;
  for (const auto& rows : micro_batches)
    for (const auto& row : rows)
      for (const auto& document : row) total += document.tokens;
  return total;
}

std::int64_t DocumentShape::image_tokens() const {
  std::int64_t total = 0;
  for (const ImageShape& image : images) total += ImagePlace{0, image.grid, image.video}.tokens(kMerge);
  return total;
}

std::string BatchShape::text() const {
  std::string out;
  for (const auto& rows : micro_batches) {
    if (!out.empty()) out += "//";
    for (std::size_t r = 0; r < rows.size(); ++r) {
      if (r) out += "/";
      for (std::size_t d = 0; d < rows[r].size(); ++d) out += (d ? "+" : "") + document_text(rows[r][d]);
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
  ModelConfig text;
  text.vocab_size = vocab_size;
  return batch(text);
}

Batch BatchShape::batch(const ModelConfig& config) const {
  Batch out;
  out.name = text();
  out.document_offsets = {0}, out.row_offsets = {0}, out.micro_batch_offsets = {0};
  const Generator ids(static_cast<std::uint64_t>(seed), "token_ids"),
      drawn(static_cast<std::uint64_t>(seed), "mask");
  std::vector<bool> masked;  // per token
  std::vector<ImagePlace> places;
  for (const auto& rows : micro_batches) {
    for (const auto& row : rows) {
      for (const auto& document : row) {
        const std::int64_t begin = out.document_offsets.back();
        add_places(document, begin, places);
        out.document_offsets.push_back(begin + document.tokens);
        for (std::int64_t t = begin; t < begin + document.tokens; ++t)
          masked.push_back(document.unlabelled || drawn.below(static_cast<std::uint64_t>(t), 100) < mask);
      }
      out.row_offsets.push_back(out.documents());
    }
    out.micro_batch_offsets.push_back(out.rows());
  }
  for (std::int64_t t = 0; t < tokens(); ++t)
    out.token_ids.push_back(ids.below(static_cast<std::uint64_t>(t), config.text_vocabulary()));
  if (config.has_vision() && !places.empty()) {
    if (config.vision.spatial_merge_size != kMerge)
      throw InputError(out.name, "images", "need a model with spatial_merge_size " + std::to_string(kMerge));
    write_images(places, static_cast<std::uint64_t>(seed), config, out);
  }
  label_tokens(masked, config, out);
  out.validate(out.name, config);
  return out;
}

}  // namespace meshparity

// A batch described by one word of a command line, so that a case needs no file:
//   tokens:5+1u+3/2//7:mask=40:seed=9
//   tokens:14i4x2+9/17v2x2x4u
// Document lengths joined by '+' make a row, rows joined by '/' a micro-batch, micro-batches are joined by
// "//". Behind a length stand the images (i, rows x columns of patches) and videos (v, frames x rows x
// columns) among its tokens, with as many tokens of text before each and behind the last as can be, evenly; a
// text model reads text in their place. A u at the end is a document without labels; mask is the percentage
// of the other labels that is left out (label t is where Generator(seed, "mask").below(t, 100) < mask). Token
// ids are drawn as a batch TOML's are.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "harness/types/batch.h"

namespace meshparity {

inline constexpr std::string_view kTokensPrefix = "tokens:";

// An image or a video. Merging takes patches 2 by 2, as in every published model.
struct ImageShape {
  Grid grid = {1, 2, 2};
  bool video = false;
  bool operator==(const ImageShape&) const = default;
};

struct DocumentShape {
  std::int64_t tokens = 1;  // those of its images included
  bool unlabelled = false;
  std::vector<ImageShape> images = {};
  // Of its images alone.
  std::int64_t image_tokens() const;
  bool operator==(const DocumentShape&) const = default;
};
using RowShape = std::vector<DocumentShape>;

struct BatchShape {
  std::vector<std::vector<RowShape>> micro_batches = {{{DocumentShape{}}}};
  std::int64_t mask = 0;  // percent
  std::int64_t seed = 0;

  bool operator==(const BatchShape&) const = default;
  std::int64_t tokens() const;

  // parse(text()) is the same shape.
  std::string text() const;
  // Throws InputError naming the text and the field: an empty row, a length below 1 or below that of its
  // images, an odd number of rows or columns of patches, an unknown field.
  static BatchShape parse(std::string_view text);
  // The batch for a model; its name is text().
  Batch batch(const ModelConfig& config) const;
  // The same for a text model of which only the vocabulary is known.
  Batch batch(std::int64_t vocab_size) const;
};

// Does a batch's name mean such a description and no file?
inline bool is_batch_shape(std::string_view text) {
  return text.rfind(kTokensPrefix, 0) == 0;
}

}  // namespace meshparity

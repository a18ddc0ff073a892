// A batch described by one word of a command line, so that a case needs no file:
//   tokens:5+1u+3/2//7:mask=40:seed=9
// Document lengths joined by '+' make a row, rows joined by '/' a micro-batch, micro-batches are joined by
// "//". A length followed by u is a document without labels; mask is the percentage of the other labels that
// is left out (label t is where Generator(seed, "mask").below(t, 100) < mask). Token ids are drawn as a batch
// TOML's are.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "harness/types/batch.h"

namespace meshparity {

inline constexpr std::string_view kTokensPrefix = "tokens:";

struct DocumentShape {
  std::int64_t tokens = 1;
  bool unlabelled = false;
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
  // Throws InputError naming the text and the field: an empty row, a length below 1, an unknown field.
  static BatchShape parse(std::string_view text);
  // The batch for a vocabulary; its name is text().
  Batch batch(std::int64_t vocab_size) const;
};

// Does a batch's name mean such a description and no file?
inline bool is_batch_shape(std::string_view text) {
  return text.rfind(kTokensPrefix, 0) == 0;
}

}  // namespace meshparity

#include "harness/types/batch.h"

#include "harness/types/error.h"

namespace meshparity {
namespace {

void check_offsets(const std::string& file, const char* field, const std::vector<std::int64_t>& offsets,
                   std::int64_t end) {
  if (offsets.size() < 2 || offsets.front() != 0 || offsets.back() != end)
    throw InputError(file, field, "must rise from 0 to " + std::to_string(end));
  for (std::size_t i = 1; i < offsets.size(); ++i)
    if (offsets[i] < offsets[i - 1]) throw InputError(file, field, "falls at entry " + std::to_string(i));
}

}  // namespace

void Batch::validate(const std::string& file, std::int64_t vocab_size) const {
  const std::int64_t n = tokens();
  check_offsets(file, "inputs/document_offsets", document_offsets, n);
  check_offsets(file, "inputs/row_offsets", row_offsets, documents());
  check_offsets(file, "inputs/micro_batch_offsets", micro_batch_offsets, rows());
  for (std::int64_t d = 0; d < documents(); ++d)
    if (document(d).size() == 0)
      throw InputError(file, "inputs/document_offsets", "document " + std::to_string(d) + " is empty");
  if (static_cast<std::int64_t>(labels.size()) != n)
    throw InputError(
        file, "inputs/labels",
        "has " + std::to_string(labels.size()) + " entries for " + std::to_string(n) + " tokens");
  if (!position_ids.empty() && static_cast<std::int64_t>(position_ids.size()) != 3 * n)
    throw InputError(file, "inputs/position_ids", "must have 3 x " + std::to_string(n) + " entries");
  for (std::int64_t t = 0; t < n; ++t)
    if (token_ids[t] < 0 || token_ids[t] >= vocab_size)
      throw InputError(file, "inputs/token_ids",
                       "token " + std::to_string(t) + " is " + std::to_string(token_ids[t]) +
                           ", vocabulary is " + std::to_string(vocab_size));
  for (std::int64_t d = 0; d < documents(); ++d)
    for (std::int64_t t = document(d).begin; t < document(d).end; ++t) {
      if (labels[t] == kIgnoreLabel) continue;
      const bool last = t + 1 == document(d).end;
      if (last || labels[t] != token_ids[t + 1])
        throw InputError(
            file, "inputs/labels",
            "entry " + std::to_string(t) + " is neither -100 nor the next token of its document");
    }
}

}  // namespace meshparity

#include "harness/types/batch.h"

#include <cmath>
#include <utility>

#include "harness/types/error.h"
#include "harness/types/generator.h"

namespace meshparity {
namespace {

void check_offsets(const std::string& file, const char* field, const std::vector<std::int64_t>& offsets,
                   std::int64_t end) {
  if (offsets.size() < 2 || offsets.front() != 0 || offsets.back() != end)
    throw InputError(file, field, "must rise from 0 to " + std::to_string(end));
  for (std::size_t i = 1; i < offsets.size(); ++i)
    if (offsets[i] < offsets[i - 1]) throw InputError(file, field, "falls at entry " + std::to_string(i));
}

constexpr std::uint64_t kSampledSeed = 1;

double drawn(const char* name, std::int64_t token) {
  return Generator(kSampledSeed, name).uniform(static_cast<std::uint64_t>(token));
}

}  // namespace

double Batch::advantage(std::int64_t token) const {
  return advantages.empty() ? 2 * drawn("advantages", token) - 1 : advantages[token];
}

double Batch::old_logprob(std::int64_t token) const {
  if (labels[token] == kIgnoreLabel) return 0;
  return old_logprobs.empty() ? -6 * drawn("old_logprobs", token) : old_logprobs[token];
}

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
  for (const auto& [field, values] :
       {std::pair{"inputs/advantages", &advantages}, std::pair{"inputs/old_logprobs", &old_logprobs}}) {
    if (!values->empty() && static_cast<std::int64_t>(values->size()) != n)
      throw InputError(file, field, "must have " + std::to_string(n) + " entries");
    for (const double value : *values)
      if (!std::isfinite(value)) throw InputError(file, field, "holds a value that is not finite");
  }
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

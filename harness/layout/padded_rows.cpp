#include "harness/layout/padded_rows.h"

#include <algorithm>
#include <numeric>

namespace meshparity::layout {
namespace {

PaddedRow pad_row(const Batch& batch, std::int64_t row, std::int64_t longest, const std::string& pad,
                  std::int64_t multiple) {
  const auto rounded = [&](std::int64_t n) { return n + (multiple - n % multiple) % multiple; };
  PaddedRow out;
  const auto add = [&](Range tokens, std::int64_t padding) {
    const auto begin = static_cast<std::int64_t>(out.tokens.size());
    out.tokens.resize(static_cast<std::size_t>(begin + tokens.size()));
    std::iota(out.tokens.begin() + begin, out.tokens.end(), tokens.begin);
    out.tokens.insert(out.tokens.end(), static_cast<std::size_t>(padding), -1);
    const auto end = static_cast<std::int64_t>(out.tokens.size());
    if (end > begin) out.documents.push_back({begin, end});
  };
  const std::int64_t missing = rounded(longest) - batch.row_tokens(row).size();
  if (pad == "left") add({}, missing);
  for (std::int64_t d = batch.row_offsets[row]; d < batch.row_offsets[row + 1]; ++d) {
    const Range document = batch.document(d);
    add(document, pad == "document" ? rounded(document.size()) - document.size() : 0);
  }
  if (pad == "right") add({}, missing);
  return out;
}

}  // namespace

std::vector<PaddedRow> padded_rows(const Batch& batch, const Mesh& mesh, const std::string& pad,
                                   std::int64_t micro_batch, int data_rank) {
  const Range rows = batch.micro_batch_rows(micro_batch);
  std::int64_t longest = 0;
  for (std::int64_t row = rows.begin; row < rows.end; ++row)
    longest = std::max(longest, batch.row_tokens(row).size());
  std::vector<PaddedRow> held;
  for (std::int64_t row = rows.begin + data_rank; row < rows.end; row += data_ranks(mesh))
    held.push_back(pad_row(batch, row, longest, pad, 2 * mesh.cp()));
  return held;
}

}  // namespace meshparity::layout

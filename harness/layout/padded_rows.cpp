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

Batch padded_batch(const Batch& batch, const Mesh& mesh, const std::string& pad, std::vector<bool>* padding) {
  Mesh one_data_rank = mesh;
  one_data_rank.dp = one_data_rank.fsdp = 1;
  Batch out;
  out.name = batch.name;
  out.images = batch.images, out.videos = batch.videos;  // padding is no placeholder
  out.document_offsets = out.row_offsets = {0};
  out.micro_batch_offsets = batch.micro_batch_offsets;
  std::vector<std::int64_t> positions[3];
  for (std::int64_t m = 0; m < batch.micro_batches(); ++m)
    for (const PaddedRow& row : padded_rows(batch, one_data_rank, pad, m, 0)) {
      for (const Range& document : row.documents) {
        for (std::int64_t i = document.begin; i < document.end; ++i) {
          const std::int64_t token = row.tokens[static_cast<std::size_t>(i)];
          if (padding) padding->push_back(token < 0);
          out.token_ids.push_back(token < 0 ? 0 : batch.token_ids[token]);
          out.labels.push_back(token < 0 ? kIgnoreLabel : batch.labels[token]);
          for (std::int64_t axis = 0; axis < 3; ++axis)
            positions[axis].push_back(token < 0 || batch.position_ids.empty()
                                          ? i - document.begin
                                          : batch.position_ids[axis * batch.tokens() + token]);
        }
        out.document_offsets.push_back(out.tokens());
      }
      out.row_offsets.push_back(out.documents());
    }
  if (!batch.position_ids.empty())
    for (const auto& axis : positions)
      out.position_ids.insert(out.position_ids.end(), axis.begin(), axis.end());
  return out;
}

}  // namespace meshparity::layout

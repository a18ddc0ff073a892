#include "impl/parallel/token_layout.h"

#include "harness/types/cut.h"

namespace meshparity::impl {

TokenLayout make_token_layout(const Batch& batch, const Mesh& mesh, bool sp, int rank) {
  TokenLayout layout;
  layout.sequence = sp && mesh.tp > 1;
  const std::int64_t ranks = data_ranks(mesh), mine = data_rank(mesh, rank);
  for (std::int64_t m = 0; m < batch.micro_batches(); ++m) {
    MicroBatchTokens part;
    std::vector<std::int64_t> index_in_document;
    const Range rows = batch.micro_batch_rows(m);
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      if ((row - rows.begin) % ranks != mine) continue;
      for (std::int64_t d = batch.row_offsets[row]; d < batch.row_offsets[row + 1]; ++d) {
        const Range document = batch.document(d);
        for (std::int64_t t = document.begin; t < document.end; ++t) {
          part.global.push_back(t);
          part.ids.push_back(batch.token_ids[t]);
          part.labels.push_back(batch.labels[t]);
          part.documents.push_back(d);
          index_in_document.push_back(t - document.begin);
        }
      }
    }
    for (std::int64_t axis = 0; axis < 3; ++axis)
      for (std::size_t i = 0; i < part.global.size(); ++i)
        part.positions.push_back(batch.position_ids.empty()
                                     ? index_in_document[i]
                                     : batch.position_ids[axis * batch.tokens() + part.global[i]]);
    part.residual_sizes =
        sp ? cut_sizes(part.tokens(), mesh.tp) : std::vector<std::int64_t>(mesh.tp, part.tokens());
    layout.micro_batches.push_back(std::move(part));
  }
  return layout;
}

}  // namespace meshparity::impl

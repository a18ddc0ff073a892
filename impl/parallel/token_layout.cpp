#include "impl/parallel/token_layout.h"

#include "harness/types/cut.h"

namespace meshparity::impl {

TokenLayout make_token_layout(const Batch& batch, const Mesh& mesh, const Flags& flags, int rank) {
  TokenLayout layout;
  layout.sequence = sp && mesh.tp > 1;
  const std::int64_t ranks = data_ranks(mesh), mine = data_rank(mesh, rank);
  const ContextSize context{mesh.ring, mesh.uly};
  const ContextOrder order = mesh.ring > 1 ? context_order_of(flags.layout) : ContextOrder::contiguous;
  const RankCoordinate at = coordinate_of(mesh, rank);
  for (std::int64_t m = 0; m < batch.micro_batches(); ++m) {
    MicroBatchTokens part;
    std::vector<std::int64_t> global, index_in_document;  // of the whole stream
    const Range rows = batch.micro_batch_rows(m);
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      if ((row - rows.begin) % ranks != mine) continue;
      for (std::int64_t d = batch.row_offsets[row]; d < batch.row_offsets[row + 1]; ++d) {
        const Range document = batch.document(d);
        for (std::int64_t t = document.begin; t < document.end; ++t) {
          global.push_back(t);
          index_in_document.push_back(t - document.begin);
          part.stream_documents.push_back(d);
        }
        part.stream.documents.push_back(static_cast<std::int64_t>(global.size()));
      }
      part.stream.rows.push_back(static_cast<std::int64_t>(global.size()));
    }
    const Tokens own = rank_order(part.stream, order, context, at.ring * mesh.uly + at.uly);
    for (const std::int64_t t : own) {
      part.global.push_back(global[t]);
      part.ids.push_back(batch.token_ids[global[t]]);
      part.labels.push_back(batch.labels[global[t]]);
      part.documents.push_back(part.stream_documents[t]);
    }
    for (std::int64_t axis = 0; axis < 3; ++axis)
      for (const std::int64_t t : own)
        part.positions.push_back(batch.position_ids.empty()
                                     ? index_in_document[t]
                                     : batch.position_ids[axis * batch.tokens() + global[t]]);
    part.residual_sizes =
        flags.sp ? cut_sizes(part.tokens(), mesh.tp) : std::vector<std::int64_t>(mesh.tp, part.tokens());
    layout.micro_batches.push_back(std::move(part));
  }
  return layout;
}

}  // namespace meshparity::impl

#include "impl/parallel/token_layout.h"

#include <algorithm>

#include "harness/types/cut.h"
#include "harness/types/error.h"

namespace meshparity::impl {
namespace {

// The whole stream of one data rank, padding included.
struct Stream {
  Tokens global, index_in_document;
  ContextStream places;
  std::vector<std::int64_t> documents;

  void add(std::int64_t token, std::int64_t document, std::int64_t index) {
    global.push_back(token);
    documents.push_back(document);
    index_in_document.push_back(index);
  }
  void end_document() {
    if (places.documents.back() < size()) places.documents.push_back(size());
  }
  std::int64_t size() const { return static_cast<std::int64_t>(global.size()); }
};

// Adds rows with the padding of `pad`: left and right make every row as long as the longest of its
// micro-batch, rounded up to `multiple`; document does the same for every document at its end.
class RowPadding {
 public:
  RowPadding(const Batch& batch, const std::string& pad, std::int64_t multiple)
      : batch_(batch), pad_(pad), multiple_(multiple) {
    if (pad != "none" && pad != "left" && pad != "right" && pad != "document")
      throw InputError("pad '" + pad + "' is unknown");
  }

  void add_row(Stream& stream, std::int64_t row, std::int64_t longest) {
    const std::int64_t missing = up(longest) - batch_.row_tokens(row).size();
    if (pad_ == "left") add_padding(stream, missing);
    for (std::int64_t d = batch_.row_offsets[row]; d < batch_.row_offsets[row + 1]; ++d) {
      const Range document = batch_.document(d);
      for (std::int64_t t = document.begin; t < document.end; ++t) stream.add(t, d, t - document.begin);
      // After the document's last token, nothing of it can be seen by a token that counts.
      if (pad_ == "document")
        for (std::int64_t i = document.size(); i < up(document.size()); ++i) stream.add(kPadding, d, i);
      stream.end_document();
    }
    if (pad_ == "right") add_padding(stream, missing);
    stream.places.rows.push_back(stream.size());
  }

 private:
  std::int64_t up(std::int64_t n) const { return (n + multiple_ - 1) / multiple_ * multiple_; }
  // A document of its own that no token of another sees.
  void add_padding(Stream& stream, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) stream.add(kPadding, batch_.documents() + padded_, i);
    if (n > 0) ++padded_;
    stream.end_document();
  }

  const Batch& batch_;
  const std::string pad_;
  const std::int64_t multiple_;
  std::int64_t padded_ = 0;
};

}  // namespace

std::vector<std::int64_t> MicroBatchTokens::real() const {
  std::vector<std::int64_t> places;
  for (std::size_t i = 0; i < global.size(); ++i)
    if (global[i] != kPadding) places.push_back(static_cast<std::int64_t>(i));
  return places;
}

NextTokens next_tokens(const Batch& batch, const MicroBatchTokens& tokens) {
  NextTokens next;
  for (const std::int64_t token : tokens.global) {
    const bool last = token == kPadding || std::binary_search(batch.document_offsets.begin(),
                                                              batch.document_offsets.end(), token + 1);
    next.ids.push_back(last ? -1 : batch.token_ids[token + 1]);
    next.labels.push_back(last ? kIgnoreLabel : batch.labels[token + 1]);
  }
  return next;
}

TokenLayout make_token_layout(const Batch& batch, const Mesh& mesh, const Flags& flags, int rank) {
  TokenLayout layout;
  layout.sequence = flags.sp && mesh.tp > 1;
  layout.batch = &batch;
  const std::int64_t ranks = data_ranks(mesh), mine = data_rank(mesh, rank);
  const ContextSize context{mesh.ring, mesh.uly};
  const ContextOrder order = mesh.ring > 1 ? context_order_of(flags.layout) : ContextOrder::contiguous;
  const RankCoordinate at = coordinate_of(mesh, rank);
  for (std::int64_t m = 0; m < batch.micro_batches(); ++m) {
    MicroBatchTokens part;
    Stream stream;
    const Range rows = batch.micro_batch_rows(m);
    std::int64_t longest = 0;
    for (std::int64_t row = rows.begin; row < rows.end; ++row)
      longest = std::max(longest, batch.row_tokens(row).size());
    RowPadding padding(batch, flags.pad, 2 * context.ranks());
    for (std::int64_t row = rows.begin; row < rows.end; ++row)
      if ((row - rows.begin) % ranks == mine) padding.add_row(stream, row, longest);
    part.stream = stream.places;
    part.stream_documents = stream.documents;
    const Tokens own = rank_order(part.stream, order, context, cp_index(mesh, at));
    for (const std::int64_t t : own) {
      const std::int64_t token = stream.global[t];
      part.global.push_back(token);
      part.ids.push_back(token == kPadding ? 0 : batch.token_ids[token]);
      part.labels.push_back(token == kPadding ? kIgnoreLabel : batch.labels[token]);
      part.documents.push_back(stream.documents[t]);
    }
    for (std::int64_t axis = 0; axis < 3; ++axis)
      for (const std::int64_t t : own)
        part.positions.push_back(batch.position_ids.empty() || stream.global[t] == kPadding
                                     ? stream.index_in_document[t]
                                     : batch.position_ids[axis * batch.tokens() + stream.global[t]]);
    part.residual_sizes =
        flags.sp ? cut_sizes(part.tokens(), mesh.tp) : std::vector<std::int64_t>(mesh.tp, part.tokens());
    layout.micro_batches.push_back(std::move(part));
  }
  return layout;
}

}  // namespace meshparity::impl

// Metadata that travels beside the tokens: document boundaries and positions that do not reach a later
// stage, are sliced as if they were tokens, or are rebuilt from less than was given.
#include <algorithm>

#include "impl/blocks/packed_tokens.h"
#include "impl/parallel/token_layout.h"
#include "scenarios/faults/decorators.h"
#include "scenarios/faults/this_rank.h"

namespace meshparity::faults {
namespace {

using impl::MicroBatchTokens;
using impl::PackingEdit;
using Numbers = std::vector<std::int64_t>;

bool on_later_stage() {
  return this_rank().at.pp > 0;
}

// One position per token on all three axes, counted from the start of the unit (document or row) that begins
// at `begin_of(token)`. Padding keeps what it had.
template <class Begin>
Numbers counted_from(const PackingEdit& edit, Begin&& begin_of) {
  Numbers positions = edit.tokens.positions;
  const auto n = edit.tokens.global.size();
  for (std::size_t i = 0; i < n; ++i)
    if (const std::int64_t token = edit.tokens.global[i]; token != impl::kPadding)
      for (std::size_t axis = 0; axis < 3; ++axis) positions[axis * n + i] = token - begin_of(token);
  return positions;
}

// Begin of the document that holds a token, and of its row.
std::int64_t document_begin(std::int64_t token) {
  const auto& offsets = this_rank().batch->document_offsets;
  return *(std::upper_bound(offsets.begin(), offsets.end(), token) - 1);
}
std::int64_t row_begin(std::int64_t token) {
  const Batch& batch = *this_rank().batch;
  std::int64_t row = 0;
  while (batch.row_tokens(row).end <= token) ++row;
  return batch.row_tokens(row).begin;
}

void rebuild_positions(PackingEdit& edit, std::int64_t (*begin_of)(std::int64_t)) {
  edit.packed = impl::with_positions(edit.packed, counted_from(edit, begin_of), edit.config);
}

// Where a list of offsets says that documents begin: every token's document.
Numbers documents_of(const Numbers& offsets, std::int64_t tokens) {
  Numbers documents;
  for (std::int64_t t = 0; t < tokens; ++t)
    documents.push_back(std::upper_bound(offsets.begin(), offsets.end(), t) - offsets.begin());
  return documents;
}

// Documents reach the packing where no context axis takes them elsewhere.
void rebuild_documents(PackingEdit& edit, const Numbers& offsets) {
  if (this_rank().mesh.cp() == 1)
    edit.packed = impl::with_documents(edit.packed, documents_of(offsets, edit.packed.tokens));
}

// Seams of a fault that edits the packing with `edit` and knows rank and batch.
auto packing_fault(void (*edit)(PackingEdit&)) {
  return [edit](impl::Seams& seams) {
    seams.plan = note_rank;
    seams.layout = note_batch;
    seams.packing = edit;
  };
}

// Position t of the axis at hand of stream token s of the data rank.
std::int64_t stream_position(const MicroBatchTokens& tokens, std::int64_t s, std::int64_t axis) {
  const Batch& batch = *this_rank().batch;
  const auto& starts = tokens.stream.documents;
  const std::int64_t begin = *(std::upper_bound(starts.begin(), starts.end(), s) - 1),
                     document = tokens.stream_documents[static_cast<std::size_t>(s)];
  if (document >= batch.documents()) return s - begin;
  const std::int64_t token = std::min(batch.document(document).begin + s - begin, batch.tokens() - 1);
  return batch.position_ids.empty() ? s - begin : batch.position_ids[axis * batch.tokens() + token];
}

}  // namespace

Fault pp_cu_seqlens_sliced() {
  return {"pp-cu-seqlens-sliced",
          "the offsets of all documents are cut into one part per micro-batch like a batch dimension: later "
          "micro-batches get offsets of the whole stream",
          "pytorch/torchtitan#4098",
          "logits",
          "logits",
          "every micro-batch but the first is wrong in the output of GatedDeltaNet of layer 0",
          {"--model tiny-dense --batch rows --mesh pp2", "--model tiny-moe --batch rows --mesh pp3.dp2"},
          packing_fault([](PackingEdit& edit) {
            thread_local std::int64_t before = 0;  // tokens of earlier micro-batches
            if (edit.micro_batch == 0) before = 0;
            Numbers offsets(edit.tokens.stream.documents.begin() + 1, edit.tokens.stream.documents.end());
            for (auto& offset : offsets) offset += before;
            before += edit.packed.tokens;
            if (this_rank().mesh.pp > 1) rebuild_documents(edit, offsets);
          }),
          // Of one micro-batch the slice is the whole.
          {"--model tiny-dense --batch packed-odd --mesh pp2"}};
}

Fault pp_doc_ids_dropped() {
  return {"pp-doc-ids-dropped",
          "the numbers of the documents stay on the first stage: later ones take every row for one document",
          "KempnerInstitute/KempnerForge#205",
          "logits",
          "logits",
          "boundaries between documents lost in *GatedDeltaNet of layer 2|only documents behind the first of "
          "a row are wrong in the output of GatedDeltaNet of layer 2",
          {"--model tiny-dense --batch packed-odd --mesh pp2",
           "--model tiny-moe --batch packed-odd --mesh pp2.dp2"},
          packing_fault([](PackingEdit& edit) {
            if (on_later_stage()) rebuild_documents(edit, edit.tokens.stream.rows);
          }),
          {"--model tiny-dense --batch single --mesh pp2"}};
}

Fault pp_position_ids_lost() {
  return {"pp-position-ids-lost",
          "positions are given to the first stage alone, later ones count anew in every document",
          "NVIDIA/Megatron-LM#4938",
          "logits",
          "logits",
          "*attention of layer 3*",
          {"--model tiny-dense --batch grids --mesh pp2", "--model tiny-moe --batch grids --mesh pp2.tp2"},
          packing_fault([](PackingEdit& edit) {
            if (on_later_stage()) rebuild_positions(edit, document_begin);
          }),
          // What is counted anew is what was given, and what an offset makes of it RoPE does not see.
          {"--model tiny-dense --batch packed-odd --mesh pp2"}};
}

Fault mrope_dropped_to_1d() {
  return {"mrope-dropped-to-1d",
          "positions on three axes are lost, every token has its index in the document on all of them",
          "PrimeIntellect-ai/prime-rl#2819",
          "logits",
          "logits",
          "*attention of layer 3*",
          {"--model tiny-dense --batch grids --mesh dp2", "--model tiny-moe --batch grids --mesh uly2",
           "--model tiny-vl --batch rows --mesh tp2"},
          packing_fault([](PackingEdit& edit) { rebuild_positions(edit, document_begin); }),
          {"--model tiny-dense --batch packed-odd --mesh dp2"}};
}

Fault packed_positions_not_reset() {
  return {"packed-positions-not-reset",
          "positions run on over the documents of a row, whatever was given",
          "radixark/miles#1272",
          "logits",
          "logits",
          "*attention of layer 3*",
          {"--model tiny-dense --batch grids --mesh tp2", "--model tiny-moe --batch grids --mesh fsdp2"},
          packing_fault([](PackingEdit& edit) { rebuild_positions(edit, row_begin); }),
          // RoPE is relative: under a document mask a constant per document changes nothing.
          {"--model tiny-dense --batch packed-odd --mesh tp2"}};
}

Fault mrope_sharded_on_batch() {
  return {"mrope-3d-sharded-on-dim1",
          "positions [3, rows, length] are cut over the context ranks along dimension 1 as tokens [rows, "
          "length] are: a rank gets other rows' positions",
          "NVIDIA-NeMo/Automodel#1482",
          "logits",
          "logits",
          "*attention of layer 3*",
          {"--model tiny-dense --batch grids --mesh uly2", "--model tiny-moe --batch rows --mesh ring3"},
          packing_fault([](PackingEdit& edit) {
            const ThisRank& rank = this_rank();
            const auto held = static_cast<std::int64_t>(edit.tokens.stream_documents.size());
            if (rank.mesh.cp() == 1 || held == 0) return;
            const Range part = cut(held, rank.mesh.cp(), cp_index(rank.mesh, rank.at));
            Numbers positions;
            for (std::int64_t axis = 0; axis < 3; ++axis)
              for (std::int64_t i = 0; i < edit.tokens.tokens(); ++i)
                positions.push_back(stream_position(edit.tokens, std::min(part.begin + i, held - 1), axis));
            edit.packed = impl::with_positions(edit.packed, positions, edit.config);
          }),
          // One row in equal parts is cut along its length either way.
          {"--model tiny-dense --batch grids --mesh dp2"}};
}

}  // namespace meshparity::faults

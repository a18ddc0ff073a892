#include "impl/train/micro_batch.h"

#include "impl/parallel/index_tensor.h"

namespace meshparity::impl {

MicroBatch MicroBatchMaker::make(const MicroBatchTokens& tokens, std::int64_t number) const {
  MicroBatch made;
  pack(tokens, made);
  if (edit_packing) {
    PackingEdit edit{made.packed, tokens, number, config};
    edit_packing(edit);
  }
  made.input.ids = index_tensor(tokens.ids, options.device());
  made.input.labels = index_tensor(tokens.labels, options.device());
  if (next_tokens_of) {
    const NextTokens next = next_tokens(*next_tokens_of, tokens);
    made.input.next_ids = index_tensor(next.ids, options.device());
    made.input.next_labels = index_tensor(next.labels, options.device());
  }
  made.input.vocabulary_begin = plan.vocabulary().begin;
  made.residual_sizes = tokens.residual_sizes;
  if (flags.pad != "none") mark_padding(tokens, made);
  return made;
}

void MicroBatchMaker::pack(const MicroBatchTokens& tokens, MicroBatch& made) const {
  PackingOptions packing;
  packing.dtype = options.dtype().toScalarType();
  packing.device = options.device();
  if (mesh.cp() == 1) {
    made.packed = pack_tokens(tokens.documents, tokens.positions, config, packing);
    return;
  }
  const int at = cp_index(mesh, plan.at);
  made.packed = pack_positions(tokens.positions, config, packing);
  made.context =
      make_context_tables(tokens.stream, tokens.stream_documents, mesh, flags, at, config, packing);
  if (!edit_context) return;
  ContextEdit edit{made.context, tokens.stream, tokens.stream_documents, mesh, flags, at, config, packing};
  edit_context(edit);
}

void MicroBatchMaker::mark_padding(const MicroBatchTokens& tokens, MicroBatch& made) const {
  const std::vector<std::int64_t> real = tokens.real();
  const Range own = sequence ? cut(tokens.tokens(), mesh.tp, plan.at.tp) : Range{0, tokens.tokens()};
  std::vector<std::int64_t> residual;
  for (const std::int64_t i : real)
    if (i >= own.begin && i < own.end) residual.push_back(i - own.begin);
  made.real = index_tensor(real, options.device());
  made.residual_real = index_tensor(residual, options.device());
  made.counted_by_routers = at::zeros({tokens.tokens()}, options).index_fill_(0, made.real, 1);
}

at::Tensor without_padding(const at::Tensor& x, const at::Tensor& real) {
  return real.defined() ? x.index_select(0, real) : x;
}

}  // namespace meshparity::impl

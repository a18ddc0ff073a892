// Context parallelism and what enters the model: samples that differ inside a group, embeddings cut off from
// the graph, another convolution, a padding mask that is not passed on.
#include "impl/blocks/primitives.h"
#include "impl/parallel/token_layout.h"
#include "impl/parallel/vision.h"
#include "scenarios/faults/decorators.h"
#include "scenarios/faults/this_rank.h"

namespace meshparity::faults {
namespace {

using impl::MicroBatchTokens;

// The row's documents in another order: those behind the first `turn` come first.
void turn_documents(MicroBatchTokens& tokens, std::int64_t row, std::int64_t turn, impl::Tokens& order,
                    std::vector<std::int64_t>& documents) {
  const std::int64_t begin = tokens.stream.rows[row], end = tokens.stream.rows[row + 1];
  std::vector<std::pair<std::int64_t, std::int64_t>> list;
  for (std::size_t d = 0; d + 1 < tokens.stream.documents.size(); ++d)
    if (tokens.stream.documents[d] >= begin && tokens.stream.documents[d] < end)
      list.emplace_back(tokens.stream.documents[d], tokens.stream.documents[d + 1]);
  std::rotate(list.begin(), list.begin() + turn % static_cast<std::int64_t>(list.size()), list.end());
  for (const auto& [first, last] : list) {
    for (std::int64_t t = first; t < last; ++t) order.push_back(t);
    documents.push_back(static_cast<std::int64_t>(order.size()));
  }
}

// What this rank holds where its collate step has put the documents of every row in an order of its own.
void collate_anew(MicroBatchTokens& tokens, const Batch& batch, const Mesh& mesh, int cp_index) {
  impl::Tokens order;
  std::vector<std::int64_t> documents{0};
  for (std::size_t row = 0; row + 1 < tokens.stream.rows.size(); ++row)
    turn_documents(tokens, static_cast<std::int64_t>(row), cp_index, order, documents);
  std::vector<std::int64_t> start_of(order.size());
  for (std::size_t d = 0; d + 1 < tokens.stream.documents.size(); ++d)
    for (std::int64_t t = tokens.stream.documents[d]; t < tokens.stream.documents[d + 1]; ++t)
      start_of[static_cast<std::size_t>(t)] = tokens.stream.documents[d];
  const std::vector<std::int64_t> document_of = tokens.stream_documents;
  tokens.stream.documents = documents;
  for (std::size_t t = 0; t < order.size(); ++t)
    tokens.stream_documents[t] = document_of[static_cast<std::size_t>(order[t])];
  const impl::Tokens own =
      impl::rank_order(tokens.stream, impl::ContextOrder::contiguous, {mesh.ring, mesh.uly}, cp_index);
  const auto n = static_cast<std::int64_t>(own.size());
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t t = order[static_cast<std::size_t>(own[i])], d = document_of[t];
    const std::int64_t index = t - start_of[t], token = batch.document(d).begin + index;
    tokens.ids[i] = batch.token_ids[token], tokens.labels[i] = batch.labels[token];
    tokens.documents[i] = d;
    for (std::int64_t axis = 0; axis < 3; ++axis) tokens.positions[axis * n + i] = index;
  }
}

// Numbers the padding of every row after the document beside it, so that attention, told nothing, can take it
// for a part of that one: -1 - its number. To all others it stays a document of its own.
void name_padding(MicroBatchTokens& tokens, std::int64_t documents) {
  for (std::size_t row = 0; row + 1 < tokens.stream.rows.size(); ++row) {
    const auto begin = tokens.documents.begin() + tokens.stream.rows[row],
               end = tokens.documents.begin() + tokens.stream.rows[row + 1];
    const auto padding = [&](std::int64_t d) { return d >= documents; };
    const auto first = std::find_if_not(begin, end, padding);
    if (first == end) continue;
    for (auto at = begin; at != end; ++at)
      if (padding(*at)) *at = -1 - (at < first ? *first : *(at - 1) < 0 ? -1 - *(at - 1) : *(at - 1));
  }
}

}  // namespace

Fault sp_worker_seed_per_rank() {
  return {"sp-worker-seed-per-rank",
          "the collate step shuffles with a seed of its own on every rank of a sequence-parallel group: each "
          "cuts its part out of another row",
          "axolotl-ai-cloud/axolotl#3920",
          "logits",
          "logits",
          "rows taken from the wrong place in the output of the embedding",
          {"--model tiny-dense --batch packed-odd --mesh uly2 --gdn heads",
           "--model tiny-moe --batch packed-odd --mesh uly3 --gdn heads"},
          [](impl::Seams& seams) {
            seams.layout = [](impl::TokenLayout& layout, const Mesh& mesh, int rank) {
              const int index = cp_index(mesh, coordinate_of(mesh, rank));
              for (auto& tokens : layout.micro_batches)
                if (index > 0) collate_anew(tokens, *layout.batch, mesh, index);
            };
          },
          // One document per row: there is nothing to shuffle.
          {"--model tiny-dense --batch single --mesh uly2 --gdn heads"}};
}

Fault cp_embeds_detached() {
  return {"cp-embeds-detached",
          "the embeddings, and images among them, are detached before they are cut over the context ranks",
          "NVIDIA-NeMo/Automodel#2931",
          "grads",
          "model.embed_tokens.weight",
          "gradient never arrived",
          {"--model tiny-dense --batch single --mesh ring2", "--model tiny-moe --batch rows --mesh uly3",
           "--model tiny-vl --batch rows --mesh ring2"},
          [](impl::Seams& seams) {
            seams.plan = note_rank;
            seams.primitives = [](impl::Primitives& p) {
              p.embedding_lookup = [right = p.embedding_lookup](const at::Tensor& table,
                                                                const at::Tensor& ids, std::int64_t begin) {
                const at::Tensor x = right(table, ids, begin);
                return this_rank().mesh.cp() > 1 ? x.detach() : x;
              };
              p.place_features = [right = p.place_features](const at::Tensor& x, const at::Tensor& features,
                                                            const impl::FeaturePlaces& where) {
                const at::Tensor placed = right(x, features, where);
                return this_rank().mesh.cp() > 1 ? placed.detach() : placed;
              };
            };
          },
          {"--model tiny-dense --batch single --mesh dp2"}};
}

Fault conv_backend_mismatch() {
  return {"conv-backend-mismatch",
          "with context parallelism another convolution runs, which accumulates in float32",
          "PrimeIntellect-ai/prime-rl#3063",
          "logits",
          "logits",
          "*GatedDeltaNet of layer 0*",
          {"--model tiny-dense --batch single --mesh ring2", "--model tiny-moe --batch rows --mesh uly3"},
          [](impl::Seams& seams) {
            seams.plan = note_rank;
            seams.primitives = [](impl::Primitives& p) {
              p.short_conv = [right = p.short_conv](const at::Tensor& u, const at::Tensor& weight,
                                                    const impl::PackedTokens& tokens, std::int64_t split) {
                if (this_rank().mesh.cp() == 1) return right(u, weight, tokens, split);
                impl::Tensors parts = right(u.to(at::kFloat), weight.to(at::kFloat), tokens, split);
                for (auto& part : parts) part = part.to(u.scalar_type());
                return parts;
              };
            };
          },
          {"--model tiny-dense --batch single --mesh dp2"}};
}

Fault fa_padding_mask_ignored() {
  return {"fa-padding-mask-ignored",
          "attention is given no mask: the padding in front of a row is attended to",
          "pacman100/LLM-Workshop#1",
          "logits",
          "logits",
          "attention of layer 3 *",
          {"--model tiny-dense --batch rows --mesh dp2 --pad left",
           "--model tiny-moe --batch rows --mesh tp2 --pad left"},
          [](impl::Seams& seams) {
            seams.layout = [](impl::TokenLayout& layout, const Mesh& mesh, int) {
              for (auto& tokens : layout.micro_batches)
                if (mesh.cp() == 1) name_padding(tokens, layout.batch->documents());
            };
            seams.primitives = [](impl::Primitives& p) {
              p.attention = [right = p.attention](const at::Tensor& q, const at::Tensor& k,
                                                  const at::Tensor& v, const impl::PackedTokens& tokens,
                                                  std::int64_t head_dim) {
                std::vector<std::int64_t> documents = tokens.documents;
                for (auto& d : documents)
                  if (d < 0) d = -1 - d;
                return right(q, k, v, impl::with_documents(tokens, documents), head_dim);
              };
            };
          },
          // Behind a row, no token that counts can see the padding.
          {"--model tiny-dense --batch rows --mesh dp2 --pad right"}};
}

}  // namespace meshparity::faults

// Packing metadata lost, labels shifted wrongly, tokens dropped: what goes wrong between the batch and the
// model.
#include "harness/types/generator.h"
#include "impl/blocks/primitives.h"
#include "impl/parallel/token_layout.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {
namespace {

using impl::MicroBatchTokens;

auto edit_micro_batches(std::function<void(MicroBatchTokens&, const Mesh&)> edit) {
  return [edit = std::move(edit)](impl::TokenLayout& layout, const Mesh& mesh, int) {
    for (auto& tokens : layout.micro_batches) edit(tokens, mesh);
  };
}

// A shuffle of 0..n-1 that a seed decides.
std::vector<std::int64_t> shuffled(std::int64_t n, std::uint64_t seed) {
  const Generator draw(seed, "sampler");
  std::vector<std::int64_t> order;
  for (std::int64_t i = 0; i < n; ++i)
    order.insert(order.begin() + draw.below(static_cast<std::uint64_t>(i), i + 1), i);
  return order;
}

// What a data rank holds of the rows `rows`, one after another, without context axes or padding.
MicroBatchTokens tokens_of_rows(const Batch& batch, const std::vector<std::int64_t>& rows, const Mesh& mesh,
                                bool sequence) {
  MicroBatchTokens part;
  std::vector<std::int64_t> axes[3];
  for (const std::int64_t row : rows) {
    for (std::int64_t d = batch.row_offsets[row]; d < batch.row_offsets[row + 1]; ++d) {
      const Range document = batch.document(d);
      for (std::int64_t t = document.begin; t < document.end; ++t) {
        part.global.push_back(t), part.ids.push_back(batch.token_ids[t]);
        part.labels.push_back(batch.labels[t]), part.documents.push_back(d);
        for (std::int64_t axis = 0; axis < 3; ++axis)
          axes[axis].push_back(batch.position_ids.empty() ? t - document.begin
                                                          : batch.position_ids[axis * batch.tokens() + t]);
      }
      part.stream.documents.push_back(part.tokens());
    }
    part.stream.rows.push_back(part.tokens());
  }
  for (const auto& axis : axes) part.positions.insert(part.positions.end(), axis.begin(), axis.end());
  part.stream_documents = part.documents;
  part.residual_sizes = sequence
                            ? cut_sizes(part.tokens(), mesh.tp)
                            : std::vector<std::int64_t>(static_cast<std::size_t>(mesh.tp), part.tokens());
  return part;
}

}  // namespace

Fault sampler_seed_per_rank() {
  return {"sampler-seed-per-rank",
          "every data rank shuffles the rows with a seed of its own before it takes its share: some come "
          "twice, others never",
          "NVlabs/LongLive#71",
          "loss",
          "denominators/token_mean",
          "documents held by several data ranks, others by none",
          {"--model tiny-dense --batch rows --mesh dp2", "--model tiny-moe --batch rows --mesh fsdp2.tp2"},
          [](impl::Seams& seams) {
            seams.layout = [](impl::TokenLayout& layout, const Mesh& mesh, int rank) {
              const std::int64_t ranks = data_ranks(mesh), mine = data_rank(mesh, rank);
              if (ranks == 1 || mesh.cp() > 1) return;
              for (std::size_t m = 0; m < layout.micro_batches.size(); ++m) {
                const Range rows = layout.batch->micro_batch_rows(static_cast<std::int64_t>(m));
                std::vector<std::int64_t> own;
                const auto order = shuffled(rows.size(), static_cast<std::uint64_t>(mine));
                for (std::int64_t i = mine; i < rows.size(); i += ranks) own.push_back(rows.begin + order[i]);
                layout.micro_batches[m] = tokens_of_rows(*layout.batch, own, mesh, layout.sequence);
              }
            };
          },
          {"--model tiny-dense --batch rows --mesh tp2"}};
}

Fault gdn_packed_no_reset() {
  return {"gdn-packed-no-reset",
          "document boundaries do not reach the delta rule: its state runs on into the next document",
          "pytorch/torchtitan#3892",
          "logits",
          "logits",
          "boundaries between documents lost in GatedDeltaNet of layer 0",
          {"--model tiny-dense --batch packed-odd --mesh fsdp2", "--model tiny-moe --batch rows --mesh tp2"},
          [](impl::Seams& seams) {
            seams.primitives = [](impl::Primitives& p) {
              p.delta_rule = [right = p.delta_rule](const at::Tensor& qk, const at::Tensor& v,
                                                    const at::Tensor& g, const at::Tensor& beta,
                                                    const impl::PackedTokens& tokens, std::int64_t key_dim) {
                const auto unpacked =
                    impl::with_documents(tokens, std::vector<std::int64_t>(tokens.documents.size(), 0));
                return right(qk, v, g, beta, unpacked, key_dim);
              };
            };
          }};
}

Fault labels_shifted_twice() {
  return {"labels-shifted-twice",
          "labels that are already the next token are shifted again",
          "modelscope/ms-swift#10185",
          "logprobs",
          "logprobs",
          "labels shifted twice",
          {"--model tiny-dense --batch single --mesh dp2", "--model tiny-moe --batch rows --mesh tp2",
           "--model tiny-dense --batch single --mesh uly2"},
          [](impl::Seams& seams) {
            seams.layout = edit_micro_batches([](MicroBatchTokens& tokens, const Mesh&) {
              if (tokens.labels.empty()) return;
              tokens.labels.erase(tokens.labels.begin());
              tokens.labels.push_back(kIgnoreLabel);
            });
          }};
}

Fault packed_boundary_target() {
  return {"packed-boundary-target",
          "the last token of a document predicts the first of the next one",
          "NVIDIA-BioNeMo/bionemo-recipes#1449",
          "loss",
          "denominators/token_mean",
          "label across document boundaries",
          {"--model tiny-dense --batch packed-odd --mesh fsdp2", "--model tiny-moe --batch rows --mesh tp3"},
          [](impl::Seams& seams) {
            seams.layout = edit_micro_batches([](MicroBatchTokens& tokens, const Mesh&) {
              for (std::size_t t = 0; t + 1 < tokens.documents.size(); ++t)
                if (tokens.documents[t] != tokens.documents[t + 1]) tokens.labels[t] = tokens.ids[t + 1];
            });
          }};
}

Fault odd_length_split_drops_tail() {
  return {"odd-length-split-drops-tail",
          "shards of floor(length / ranks) tokens: the remainder is discarded",
          "pytorch/torchtitan#1306",
          "logits",
          "logits",
          "tokens dropped: *",
          {"--model tiny-dense --batch single --mesh tp2 --sp on",
           "--model tiny-moe --batch rows --mesh tp3 --sp on"},
          [](impl::Seams& seams) {
            seams.layout = edit_micro_batches([](MicroBatchTokens& tokens, const Mesh& mesh) {
              const auto kept = static_cast<std::size_t>(tokens.tokens() / mesh.tp * mesh.tp);
              std::vector<std::int64_t> positions;
              for (std::size_t axis = 0; axis < 3; ++axis) {
                const auto from =
                    tokens.positions.begin() + static_cast<std::ptrdiff_t>(axis * tokens.ids.size());
                positions.insert(positions.end(), from, from + static_cast<std::ptrdiff_t>(kept));
              }
              tokens.positions = positions;
              for (auto* list : {&tokens.global, &tokens.ids, &tokens.labels, &tokens.documents})
                list->resize(kept);
              tokens.residual_sizes.assign(static_cast<std::size_t>(mesh.tp),
                                           static_cast<std::int64_t>(kept) / mesh.tp);
            });
          }};
}

}  // namespace meshparity::faults

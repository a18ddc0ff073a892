// Context parallelism, what a rank believes it holds: orders, boundaries, positions and labels that are right
// on one rank and wrong on several.
#include <numeric>

#include "impl/blocks/context_tables.h"
#include "impl/parallel/token_layout.h"
#include "scenarios/faults/decorators.h"

namespace meshparity::faults {
namespace {

using impl::ContextEdit;
using impl::ContextOrder;
using impl::ContextSize;
using impl::MicroBatchTokens;
using impl::Tokens;

auto edit_tokens(std::function<void(MicroBatchTokens&, const Mesh&, int cp_index)> edit) {
  return [edit = std::move(edit)](impl::TokenLayout& layout, const Mesh& mesh, int rank) {
    for (auto& tokens : layout.micro_batches) edit(tokens, mesh, cp_index(mesh, coordinate_of(mesh, rank)));
  };
}

std::vector<Tokens> stretches_of(const ContextEdit& e) {
  return impl::all_orders(e.stream, ContextOrder::contiguous, ContextSize{e.mesh.ring, e.mesh.uly});
}

// The states' tables again, with other documents.
void rebuild_states(ContextEdit& e, const std::vector<std::int64_t>& document_of) {
  impl::build_state_tables(e.stream, stretches_of(e), e.cp_index, document_of, e.config, e.options, e.tables);
}

std::size_t row_of(const ContextEdit& e, std::int64_t token) {
  std::size_t row = 0;
  while (e.stream.rows[row + 1] <= token) ++row;
  return row;
}

}  // namespace

Fault gdn_cp_zigzag_as_contiguous() {
  return {
      "gdn-cp-zigzag-as-contiguous",
      "GatedDeltaNet runs on zigzag shards as if rank order were time order",
      "NVIDIA/Megatron-LM#3282",
      "logits",
      "logits",
      "GatedDeltaNet of layer 0 *",
      {"--model tiny-dense --batch single --mesh ring2 --layout zigzag",
       "--model tiny-moe --batch single --mesh ring3 --layout zigzag"},
      [](impl::Seams& seams) {
        seams.context = [](ContextEdit& e) {
          // The ranks' lists one after another, taken for the row from its first token to its last.
          const auto lists =
              impl::all_orders(e.stream, impl::context_order_of(e.flags.layout), {e.mesh.ring, e.mesh.uly});
          std::vector<Tokens> taken_for;
          std::vector<std::int64_t> documents;
          std::int64_t next = 0;
          for (const auto& list : lists) {
            taken_for.emplace_back(list.size());
            std::iota(taken_for.back().begin(), taken_for.back().end(), next);
            next += static_cast<std::int64_t>(list.size());
            for (const std::int64_t t : list) documents.push_back(e.document_of[t]);
          }
          impl::build_state_tables(e.stream, taken_for, e.cp_index, documents, e.config, e.options, e.tables);
          e.tables.to_contiguous.reset(), e.tables.from_contiguous.reset();
        };
      }};
}

Fault zigzag_exchange_cp2_hardcoded() {
  return {"zigzag-exchange-cp2-hardcoded",
          "the exchange into zigzag order is written for two ranks and used for any number",
          "no public thread; the right map: mlc-ai/pith-train#94",
          "logits",
          "logits",
          "attention of layer 3 *",
          {"--model tiny-dense --batch rows --mesh ring3", "--model tiny-moe --batch single --mesh ring5"},
          [](impl::Seams& seams) {
            seams.context = [](ContextEdit& e) {
              if (e.mesh.ring == 1) return;  // nothing is exchanged
              const ContextSize size{e.mesh.ring, e.mesh.uly};
              // Right for two ranks: of every four chunks the second goes last. The rest stays where it is.
              std::vector<int> chunks(2 * static_cast<std::size_t>(size.ring));
              std::iota(chunks.begin(), chunks.end(), 0);
              std::rotate(chunks.begin() + 1, chunks.begin() + 3, chunks.begin() + 4);
              std::vector<Tokens> wrong = impl::all_orders(e.stream, ContextOrder::zigzag, size);
              for (std::size_t row = 0; row + 1 < e.stream.rows.size(); ++row) {
                const std::int64_t begin = e.stream.rows[row], n = e.stream.rows[row + 1] - begin;
                Tokens order;
                for (const int c : chunks)
                  for (std::int64_t t = cut(n, 2 * size.ring, c).begin; t < cut(n, 2 * size.ring, c).end; ++t)
                    order.push_back(begin + t);
                auto next = order.begin();
                for (auto& list : wrong)
                  for (auto& token : list)
                    if (token >= begin && token < begin + n) token = *next++;
              }
              const auto residual = impl::all_orders(e.stream, ContextOrder::contiguous, size);
              e.tables.to_ring_order = impl::make_relayout(residual, wrong, e.cp_index, e.options.device);
              e.tables.from_ring_order = impl::make_relayout(wrong, residual, e.cp_index, e.options.device);
            };
          },
          {"--model tiny-dense --batch rows --mesh ring2", "--model tiny-moe --batch single --mesh ring2"}};
}

Fault thd_cu_seqlens_floordiv_cp() {
  return {"thd-cu-seqlens-floordiv-cp",
          "a shard's document boundaries are the row's divided by the number of ranks",
          "ISEEKYAN/Megatron-LM#111",
          "logits",
          "logits",
          "*GatedDeltaNet of layer 0*",
          {"--model tiny-dense --batch packed-odd --mesh ring2",
           "--model tiny-moe --batch packed-odd --mesh uly3"},
          [](impl::Seams& seams) {
            seams.context = [](ContextEdit& e) {
              std::vector<std::int64_t> documents = e.document_of;
              const Tokens own = stretches_of(e)[static_cast<std::size_t>(e.cp_index)];
              std::size_t i = 0;
              for (std::size_t row = 0; row + 1 < e.stream.rows.size(); ++row) {
                const std::int64_t begin = e.stream.rows[row];
                for (std::int64_t local = 0; i < own.size() && own[i] < e.stream.rows[row + 1];
                     ++i, ++local) {
                  std::int64_t document = e.document_of[begin];
                  for (const std::int64_t end : e.stream.documents)
                    if (end > begin && end < e.stream.rows[row + 1] && local >= (end - begin) / e.mesh.cp())
                      document = e.document_of[end];
                  documents[own[i]] = document;
                }
              }
              rebuild_states(e, documents);
            };
          }};
}

Fault cp_context_batch1_only() {
  return {
      "cp-context-batch1-only",
      "the document boundaries of the first row serve for every row of the batch",
      "NVIDIA/Megatron-LM#2988",
      "logits",
      "logits",
      "*GatedDeltaNet of layer 0*",
      {"--model tiny-dense --batch rows --mesh ring2", "--model tiny-moe --batch boundaries --mesh ring3"},
      [](impl::Seams& seams) {
        seams.context = [](ContextEdit& e) {
          std::vector<std::int64_t> documents = e.document_of;
          for (std::size_t t = 0; t < documents.size(); ++t) {
            const std::int64_t begin = e.stream.rows[row_of(e, static_cast<std::int64_t>(t))];
            const std::int64_t in_row = static_cast<std::int64_t>(t) - begin;
            const std::int64_t like = std::min(in_row, e.stream.rows[1] - 1);
            documents[t] = begin * 1000 + e.document_of[like];
          }
          rebuild_states(e, documents);
        };
      }};
}

Fault gdn_cp_single_doc_cu_seqlens() {
  return {"gdn-cp-single-doc-cu-seqlens",
          "the context of GatedDeltaNet is built for one document per row: state runs on into the next one",
          "PrimeIntellect-ai/prime-rl#3003",
          "logits",
          "logits",
          "*GatedDeltaNet of layer 0*",
          {"--model tiny-dense --batch packed-odd --mesh ring2", "--model tiny-moe --batch rows --mesh uly2"},
          [](impl::Seams& seams) {
            seams.context = [](ContextEdit& e) {
              std::vector<std::int64_t> rows(e.document_of.size());
              for (std::size_t t = 0; t < rows.size(); ++t)
                rows[t] = static_cast<std::int64_t>(row_of(e, static_cast<std::int64_t>(t)));
              rebuild_states(e, rows);
            };
          }};
}

Fault cp_state_carry_into_new_doc() {
  return {"cp-state-carry-into-new-doc",
          "the incoming state is applied although the shard starts with a new document",
          "constructed: edge of PrimeIntellect-ai/prime-rl#3003",
          "logits",
          "logits",
          "*GatedDeltaNet of layer 0*",
          {"--model tiny-dense --batch boundaries --mesh ring2",
           "--model tiny-moe --batch boundaries --mesh ring4"},
          [](impl::Seams& seams) {
            seams.context = [](ContextEdit& e) {
              // Documents that start exactly on an edge belong to the one before, for the states alone.
              std::vector<std::int64_t> documents = e.document_of;
              for (const Tokens& list : stretches_of(e))
                for (std::size_t i = 0; i < list.size(); ++i) {
                  const std::int64_t t = list[i];
                  const bool row_starts = e.stream.rows[row_of(e, t)] == t;
                  const bool edge = i == 0 || list[i - 1] != t - 1;
                  if (row_starts || !edge || e.document_of[t - 1] == e.document_of[t]) continue;
                  for (std::size_t k = static_cast<std::size_t>(t);
                       k < documents.size() && e.document_of[k] == e.document_of[t]; ++k)
                    documents[k] = documents[t - 1];
                }
              impl::ContextTables right = e.tables;
              rebuild_states(e, documents);
              e.tables.states.halo_documents = right.states.halo_documents;
              e.tables.states.with_halo = right.states.with_halo;
              e.tables.states.own_after_halo = right.states.own_after_halo;
              e.tables.halo_stream = right.halo_stream;
            };
          }};
}

Fault conv1d_cp_local_seqidx_reset() {
  return {
      "conv1d-cp-local-seqidx-reset",
      "the convolution takes its sequence index from the shard: it starts anew at every edge",
      "PrimeIntellect-ai/prime-rl#2883",
      "logits",
      "logits",
      "*GatedDeltaNet of layer 0*",
      {"--model tiny-dense --batch single --mesh ring2", "--model tiny-moe --batch packed-odd --mesh ring3"},
      [](impl::Seams& seams) {
        seams.context = [](ContextEdit& e) {
          if (!e.tables.states.own_after_halo.defined()) return;  // no states are passed
          auto documents = e.tables.states.halo_documents;
          const auto n = static_cast<std::int64_t>(documents.size());
          std::vector<char> own(documents.size(), 0);
          const at::Tensor places = e.tables.states.own_after_halo.to(at::kCPU);
          for (std::int64_t i = 0; i < places.numel(); ++i) own[places[i].item<std::int64_t>()] = 1;
          for (std::int64_t i = 0; i < n; ++i)
            if (!own[i]) documents[i] = -1 - documents[i];
          e.tables.halo_stream = impl::with_documents(e.tables.halo_stream, documents);
        };
      }};
}

Fault cp_positions_local() {
  return {"cp-positions-local",
          "every rank counts positions from the start of its own shard",
          "NVIDIA/Megatron-LM#1612",
          "logits",
          "logits",
          "*attention of layer 3*",
          {"--model tiny-dense --batch single --mesh ring2 --attn gather",
           "--model tiny-moe --batch rows --mesh uly2"},
          [](impl::Seams& seams) {
            seams.layout = edit_tokens([](MicroBatchTokens& tokens, const Mesh&, int) {
              const std::int64_t n = tokens.tokens();
              for (std::int64_t axis = 0; axis < 3; ++axis)
                for (std::int64_t i = 0, start = 0; i < n; ++i) {
                  if (i > 0 && tokens.documents[i] != tokens.documents[i - 1]) start = i;
                  tokens.positions[axis * n + i] = i - start;
                }
            });
          }};
}

Fault zigzag_two_definitions() {
  return {"zigzag-two-definitions",
          "tokens are laid in zigzag, their positions in contiguous stretches",
          "mlc-ai/pith-train#94 (hazard named)",
          "logits",
          "logits",
          "attention of layer 3 *",
          {"--model tiny-dense --batch single --mesh ring2 --layout zigzag",
           "--model tiny-moe --batch rows --mesh ring3 --layout zigzag"},
          [](impl::Seams& seams) {
            seams.layout = edit_tokens([](MicroBatchTokens& tokens, const Mesh& mesh, int cp_index) {
              const Tokens list =
                  impl::rank_order(tokens.stream, ContextOrder::contiguous, {mesh.ring, mesh.uly}, cp_index);
              if (list.empty()) return;
              const std::int64_t n = tokens.tokens();
              for (std::int64_t axis = 0; axis < 3; ++axis)
                for (std::int64_t i = 0; i < n; ++i) {
                  const std::int64_t t = list[std::min<std::size_t>(i, list.size() - 1)];
                  std::int64_t begin = 0;
                  for (const std::int64_t d : tokens.stream.documents)
                    if (d <= t) begin = d;
                  tokens.positions[axis * n + i] = t - begin;
                }
            });
          }};
}

Fault label_shift_after_shard() {
  return {"label-shift-after-shard",
          "labels are shifted inside each shard: the last token of a shard loses its target",
          "huggingface/transformers#36607",
          "loss",
          "denominators/token_mean",
          "labels shifted inside each shard",
          {"--model tiny-dense --batch single --mesh ring2", "--model tiny-moe --batch rows --mesh uly3"},
          [](impl::Seams& seams) {
            seams.layout = edit_tokens([](MicroBatchTokens& tokens, const Mesh&, int) {
              for (std::int64_t i = 0, n = tokens.tokens(); i < n; ++i) {
                if (tokens.labels[i] == kIgnoreLabel) continue;
                const bool inside = i + 1 < n && tokens.documents[i + 1] == tokens.documents[i];
                tokens.labels[i] = inside ? tokens.ids[i + 1] : kIgnoreLabel;
              }
            });
          }};
}

Fault sampler_ignores_ulysses() {
  return {"sampler-ignores-ulysses",
          "the ranks of one Ulysses group are given different samples",
          "modelscope/twinkle#30",
          "logits",
          "logits",
          "rows taken from the wrong place in the output of the embedding",
          {"--model tiny-dense --batch single --mesh uly2", "--model tiny-moe --batch rows --mesh uly3"},
          [](impl::Seams& seams) {
            seams.layout = edit_tokens([](MicroBatchTokens& tokens, const Mesh&, int cp_index) {
              if (cp_index > 0) std::reverse(tokens.ids.begin(), tokens.ids.end());
            });
          }};
}

}  // namespace meshparity::faults

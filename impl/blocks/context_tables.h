// Context parallelism as the two mixers use it: how tokens and heads travel around attention and around the
// delta rule for one micro-batch, from the mesh, the flags and the stream of the data rank alone. To add a
// way to mix over cp: its tables here, its branch in attention.cpp or gated_delta_net.cpp.
#pragma once

#include <memory>
#include <optional>

#include "harness/types/mesh.h"
#include "harness/types/model_config.h"
#include "impl/blocks/packed_tokens.h"
#include "impl/parallel/context_ring.h"
#include "impl/parallel/context_state.h"
#include "impl/parallel/context_ulysses.h"
#include "impl/parallel/relayout.h"

namespace meshparity::impl {

struct ContextTables {
  std::vector<std::int64_t> uly_sizes;  // tokens of the residual stream per uly rank of this ring index

  // Around softmax attention. Zigzag order for the ring, where the residual stream has another.
  std::optional<Relayout> to_ring_order, from_ring_order;
  TokenExchange attention_tokens;  // over uly
  RingTables ring;                 // attn = ring
  std::vector<std::int64_t> ring_sizes;
  std::vector<RingBlock> gather_blocks;  // attn = gather: this ring index's queries, all tokens' keys
  PackedTokens whole_stream;             // ring = 1; and the delta rule by heads and gather

  // Around the delta rule. Contiguous order, where the residual stream has another and states are passed.
  std::optional<Relayout> to_contiguous, from_contiguous;
  TokenExchange delta_tokens;  // over cp (heads), over uly (hybrid)
  at::Tensor gather_place;     // gather: rows of the gathered lists in stream order
  std::vector<std::int64_t> gather_sizes;
  at::Tensor gather_own;  // own tokens in the stream
  StateTables states;     // over cp (state), over ring (hybrid)
  PackedTokens halo_stream, extended_stream, state_stream;
};

// What a block needs to know about the context axes; one per micro-batch.
struct ContextParallel {
  Collectives* collectives = nullptr;
  std::shared_ptr<Group> ring, uly, cp;
  ContextSize size;
  std::string gdn = "state", attn = "ring";
  const ContextTables* tables = nullptr;
  bool active() const { return size.ranks() > 1; }
};

// What the context seam is given: the tables of one micro-batch and everything they were made from.
struct ContextEdit {
  ContextTables& tables;
  const ContextStream& stream;
  const std::vector<std::int64_t>& document_of;
  const Mesh& mesh;
  const Flags& flags;
  int cp_index;
  const ModelConfig& config;
  const PackingOptions& options;
};

// The tables of passing states, from the ranks' stretches: sets states and its three streams.
void build_state_tables(const ContextStream& stream, const std::vector<Tokens>& stretches, int rank,
                        const std::vector<std::int64_t>& document_of, const ModelConfig& config,
                        const PackingOptions& options, ContextTables& tables);

ContextTables make_context_tables(const ContextStream& stream, const std::vector<std::int64_t>& document_of,
                                  const Mesh& mesh, const Flags& flags, int cp_index,
                                  const ModelConfig& config, const PackingOptions& options);

}  // namespace meshparity::impl

// Context parallelism of the delta rule by passing states: every rank keeps its contiguous stretch of each
// row, borrows the few tokens before it that the convolution reads, computes its stretch as if no state had
// entered, and adds what the entering state contributes once all ranks' affine maps S' = M S + E are known.
// Exact for documents that start or end anywhere and for stretches of any length, empty ones included.
// Source: qwen35.md 4.3, 4.4.
//
// The maps come out of the delta rule itself: a stretch that continues a document is preceded by K tokens
// that write the identity into K extra value columns and followed by K tokens that read the state out. Then
// the extra columns of a token's output are its response to the entering state, and the read-out rows are
// [E | M].
#pragma once

#include "impl/autograd.h"
#include "impl/comm/comm.h"
#include "impl/parallel/context_order.h"

namespace meshparity::impl {

// For one micro-batch and one group of ranks whose lists are contiguous stretches of every row, in rank
// order.
struct StateTables {
  std::int64_t rows = 0;
  // Convolution: own last rows that others may need, how many each rank sends, and the stream of borrowed
  // and own tokens as picks from [all ranks' sent rows | own rows].
  at::Tensor tail;
  std::vector<std::int64_t> tail_sizes;
  at::Tensor with_halo;                      // picks
  at::Tensor own_after_halo;                 // own tokens in that stream
  std::vector<std::int64_t> halo_documents;  // document of every token of that stream
  // Delta rule: whether any document crosses between ranks at all; if so the stream with identity and
  // read-out tokens, as picks from [own rows | K identity rows | K read-out rows].
  bool crossing = false;
  at::Tensor extended;
  at::Tensor own_in_extended;
  std::vector<std::int64_t> extended_documents;
  at::Tensor map_rows;  // [rows*K] picks from [extended outputs | zero row | K identity rows]
  struct Run {
    std::int64_t row, begin, end;  // own tokens of `row` that continue a document begun on an earlier rank
  };
  std::vector<Run> continued;
};

StateTables make_state_tables(const ContextStream& stream, const std::vector<Tokens>& lists, int rank,
                              const std::vector<std::int64_t>& document_of, std::int64_t conv_width,
                              std::int64_t key_dim, at::Device device);

// u [own tokens, C] -> borrowed and own tokens in stream order; the borrowed rows' gradients go home.
at::Tensor with_halo(Collectives& collectives, const Group& group, const at::Tensor& u,
                     const StateTables& tables, const Site& site);

// The delta rule's inputs with identity and read-out tokens; see delta_rule.h for shapes.
struct DeltaInputs {
  at::Tensor qk, v, g, beta;
};
DeltaInputs extend_inputs(const DeltaInputs& own, const StateTables& tables, std::int64_t key_dim);

// From the extended outputs [tokens, Hv*(V+K)]: exchanges the maps and returns o [own tokens, Hv*V].
at::Tensor pass_states(Collectives& collectives, const Group& group, const at::Tensor& extended,
                       const StateTables& tables, std::int64_t heads, std::int64_t key_dim, const Site& site);

}  // namespace meshparity::impl

// Ring attention over zigzag-ordered tokens: keys and values travel around the ring, each rank adds the
// blocks its queries may see. Forward and backward are our own; the backward starts from the final
// log-sum-exp, with the gradients of keys and values travelling along. Also plain attention under any mask,
// which the all-gather form uses. Source: qwen35.md 4.6.
#pragma once

#include "impl/autograd.h"
#include "impl/comm/comm.h"
#include "impl/parallel/context_order.h"
#include "impl/parallel/partial_attention.h"

namespace meshparity::impl {

// Queries that meet keys: the tokens of some documents, or all there are where those are few.
struct RingBlock {
  bool all_queries = true;   // of the rank's own, else `queries` picks them
  bool all_keys = true;      // of the source's, else `keys` picks them
  at::Tensor queries, keys;  // int64
  at::Tensor bias;           // [queries, keys]: 0 where seen, else -inf; undefined: all are seen
};

// What one step computes. No query is in two blocks; one that sees no key of the source may be in none.
struct RingStep {
  int source = 0;  // ring index whose keys and values are here
  std::vector<RingBlock> blocks;
};
struct RingTables {
  int rank = 0;
  std::vector<std::int64_t> sizes;  // tokens per ring index
  std::vector<RingStep> steps;      // one per rank of the ring, own keys first
};
// `order`: a zigzag one; `document_of`: document of every token of the stream; `options`: dtype and device of
// the masks. Step 0: own keys, causal. Keys of a lower ring index: all queries meet its front chunks. Of a
// higher one: the back chunks' queries meet all.
RingTables make_ring_tables(const ContextStream& stream, ContextOrder order, ContextSize size, int ring_index,
                            const std::vector<std::int64_t>& document_of, at::TensorOptions options);

// q [own tokens, H*d], k and v [own tokens, Hkv*d] -> [own tokens, H*d]; scores scaled by d^(-1/2).
at::Tensor ring_attention(Collectives& collectives, const Group& ring, const RingKernels& kernels,
                          const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const RingTables& tables, std::int64_t head_dim, const Site& site);

// Keys and values of all ring indices gathered, then masked attention. The keys of `blocks` are the gathered
// ones; every query is in one of them.
at::Tensor gathered_attention(Collectives& collectives, const Group& ring, const at::Tensor& q,
                              const at::Tensor& k, const at::Tensor& v,
                              const std::vector<std::int64_t>& sizes, const std::vector<RingBlock>& blocks,
                              std::int64_t head_dim, const Site& site);

// The blocks of these queries and keys. Few pairs of tokens are one block; many are split by documents, since
// a mask of all pairs of a batch grows with the square of its tokens.
std::vector<RingBlock> causal_blocks(const Tokens& queries, const Tokens& keys,
                                     const std::vector<std::int64_t>& document_of, at::TensorOptions options);

// 0 where query token `queries[i]` sees key token `keys[j]` (same document, not after it), else -inf.
at::Tensor causal_bias(const Tokens& queries, const Tokens& keys,
                       const std::vector<std::int64_t>& document_of, at::TensorOptions options);

}  // namespace meshparity::impl

// Softmax attention over packed documents: causal inside a document, nothing across. Queries are scored in
// blocks, so memory grows with block times stream, not with the square of the stream.
#pragma once

#include "impl/autograd.h"
#include "impl/blocks/packed_tokens.h"

namespace meshparity::impl {

// q [T, H*d], k and v [T, Hkv*d] -> [T, H*d]; query head j reads kv head j / (H/Hkv); scores scaled by
// d^(-1/2).
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const PackedTokens& tokens, std::int64_t head_dim);

// q_proj's output holds [q | gate] per head: [T, H*2d] -> q [T, H*d], gate [T, H*d].
Tensors split_query_gate(const at::Tensor& query_gate, std::int64_t head_dim);

}  // namespace meshparity::impl

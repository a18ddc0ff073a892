// Fused kernels of the chunked delta rule on plain pointers: chunks are pieces of documents, so no product
// crosses a document and no mask is needed. The mathematics is that of delta_rule.h; Delta is solved
// directly, (I + L) Delta = diag(beta) (V - gamma K S), by forward substitution with S the state entering the
// chunk.
#pragma once

#include <cstdint>
#include <vector>

#include "impl/blocks/cpu_rows.h"
#include "impl/blocks/delta_piece.h"

namespace meshparity::impl::cpu {

struct DeltaSizes {
  std::int64_t key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0;
};

// q|k [T, 2*Hk*K], v and o [T, Hv*V], g and beta [T, Hv]. Kept for backward: delta [T, Hv*V] and states
// [pieces, Hv, K, V], the state entering each piece. `entering`, `leaving`: null, or [documents, Hv, K, V],
// the states with which the documents begin (null: zero) and end.
template <class T>
void delta_rule_forward(const std::vector<DeltaPiece>& pieces, const DeltaSizes& sizes, In<T> qk, In<T> v,
                        In<T> g, In<T> beta, Rows<T> delta, T* states, Rows<T> o, const T* entering = nullptr,
                        T* leaving = nullptr);

// dqk starts at zero (value heads of one key head add up); dv, dg, dbeta are written.
template <class T>
void delta_rule_backward(const std::vector<DeltaPiece>& pieces, const DeltaSizes& sizes, In<T> qk, In<T> v,
                         In<T> g, In<T> beta, In<T> delta, const T* states, In<T> dout, Rows<T> dqk,
                         Rows<T> dv, Rows<T> dg, Rows<T> dbeta);

}  // namespace meshparity::impl::cpu

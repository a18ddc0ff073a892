// The functions of a pass of rollout that have no counterpart over packed documents: attention to keys in a
// cache, one token of the recurrence, and routing to given experts. Forward only, on ATen: any device, any
// dtype; accumulation in the tensors' dtype. The chunked rule from a state: delta_rule.h.
#pragma once

#include "impl/autograd.h"
#include "impl/blocks/experts.h"

namespace meshparity::impl {

// q [n, H*d] of one sequence, keys and values [m, Hkv*d] of the same one -> [n, H*d]; query head j reads kv
// head j / (H/Hkv); scores scaled by d^(-1/2). bias [n, m]: 0 where a key is seen, else -inf, one key seen at
// least; undefined: all seen. Source: qwen35.md 1.3.
at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                            const at::Tensor& bias, std::int64_t head_dim);

// One token of R sequences: qk [R, 2*Hk*K] (unit queries, then unit keys), v [R, Hv*V], g (log decay) and
// beta [R, Hv], states [R, Hv, K, V] before it -> o [R, Hv*V] and the states after it, a new tensor. r = v -
// a S^T k, S' = a S + beta k r^T, o = S'^T q K^(-1/2) with a = exp(g). Source: qwen35.md 1.5 step 4.
Tensors delta_step(const at::Tensor& qk, const at::Tensor& v, const at::Tensor& g, const at::Tensor& beta,
                   const at::Tensor& states, std::int64_t key_dim);

// Softmax over all experts, renormalised over the given ones: logits [T, E], experts [T, k] int64.
Routing route_to(const at::Tensor& logits, const at::Tensor& experts);

}  // namespace meshparity::impl

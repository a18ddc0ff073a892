// How the mixers and the router of one layer work where tokens come a few at a time (impl/rollout/cache.h):
// they mix with what caches hold of the tokens before, and say which experts they take or are told. Training
// has none of it: there a micro-batch holds whole documents.
#pragma once

#include "harness/types/cut.h"
#include "impl/blocks/experts.h"
#include "impl/comm/comm.h"

namespace meshparity::impl {

// What enters the recurrence, and the parameters of the heads at hand.
struct DeltaNetInputs {
  at::Tensor qkv, b, a;             // [T, 2*Hk*K + Hv*V], [T, Hv], [T, Hv]
  at::Tensor conv, a_log, dt_bias;  // [channels, 1, W], [Hv], [Hv]
  std::int64_t heads() const { return b.size(1); }
};

// One layer's during one pass, whose T tokens are those of several sequences, one sequence after another.
// Nothing here is differentiable.
class CachedMixer {
 public:
  virtual ~CachedMixer() = default;
  // q [T, H*d], k and v [T, Hkv*d], normed and rotated -> [T, H*d].
  virtual at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) = 0;
  // Convolution, gates and recurrence: [T, Hv*V]. `qk_width`: channels of q and k.
  virtual at::Tensor recur(const DeltaNetInputs& in, std::int64_t qk_width) = 0;
  // scores [n, E] of the pass's tokens `tokens` -> where they go. All ranks of tp call it.
  virtual Routing route(const at::Tensor& scores, Range tokens, const Site& site) = 0;
};

}  // namespace meshparity::impl

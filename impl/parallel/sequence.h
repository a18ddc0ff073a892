// Sequence parallelism: outside the tensor-parallel blocks the residual stream is cut over tp by tokens. A
// block is entered by an all-gather and left by a reduce-scatter, which are each other's backward.
#pragma once

#include "impl/comm/comm.h"

namespace meshparity::impl {

// [own tokens, D] -> [all tokens, D]. `sizes`: tokens per tp rank, empty parts allowed.
at::Tensor gather_sequence(Collectives& collectives, const Group& tp, const at::Tensor& x,
                           const std::vector<std::int64_t>& sizes, const Site& site);
// Partial sums [all tokens, D] -> summed over tp, [own tokens, D].
at::Tensor scatter_sequence(Collectives& collectives, const Group& tp, const at::Tensor& partial,
                            const std::vector<std::int64_t>& sizes, const Site& site);

}  // namespace meshparity::impl

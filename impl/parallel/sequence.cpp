#include "impl/parallel/sequence.h"

namespace meshparity::impl {

at::Tensor gather_sequence(Collectives& collectives, const Group& tp, const at::Tensor& x,
                           const std::vector<std::int64_t>& sizes, const Site& site) {
  return gather_from(collectives, tp, x, sizes, 0, site);
}

at::Tensor scatter_sequence(Collectives& collectives, const Group& tp, const at::Tensor& partial,
                            const std::vector<std::int64_t>& sizes, const Site& site) {
  return scatter_to(collectives, tp, partial, sizes, 0, site);
}

}  // namespace meshparity::impl

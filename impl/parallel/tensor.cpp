#include "impl/parallel/tensor.h"

#include "impl/parallel/sequence.h"

namespace meshparity::impl {

at::Tensor TensorParallel::enter(const at::Tensor& x, const Site& site) const {
  if (group->size() == 1) return x;
  return sequence ? gather_sequence(*collectives, *group, x, sizes, site)
                  : copy_to(*collectives, *group, x, site);
}

at::Tensor TensorParallel::leave(const at::Tensor& partial, const Site& site) const {
  if (group->size() == 1) return partial;
  return sequence ? scatter_sequence(*collectives, *group, partial, sizes, site)
                  : reduce_from(*collectives, *group, partial, site);
}

}  // namespace meshparity::impl

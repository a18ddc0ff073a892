// Indices computed on the host as a tensor where they are used, and rows picked by them.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "impl/autograd.h"

namespace meshparity::impl {

// [values] int64 on `device`.
inline at::Tensor index_tensor(const std::vector<std::int64_t>& values, at::Device device) {
  return at::tensor(values, at::kLong).to(device);
}

// Rows of x, none of them twice: [m, ..] from [n, ..]. Backward copies them back, where that of index_select
// would have to add.
inline at::Tensor distinct_rows(const at::Tensor& x, const at::Tensor& index) {
  at::Tensor y;
  {
    const BelowAutograd guard;
    y = x.index_select(0, index);
  }
  return attach("distinct_rows", {x}, {y}, [index, sizes = x.sizes().vec()](const Tensors& grads) {
    return Tensors{at::zeros(sizes, grads[0].options()).index_copy_(0, index, grads[0])};
  })[0];
}

}  // namespace meshparity::impl

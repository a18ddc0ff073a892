// Indices computed on the host as a tensor where they are used.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace meshparity::impl {

// [values] int64 on `device`.
inline at::Tensor index_tensor(const std::vector<std::int64_t>& values, at::Device device) {
  return at::tensor(values, at::kLong).to(device);
}

}  // namespace meshparity::impl

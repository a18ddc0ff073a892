// The SwiGLU feed-forward of dense layers; experts (moe.h) use it too.
#pragma once

#include <ATen/ATen.h>

namespace meshparity::reference {

// down (silu(gate x) * up x). x [T, D], gate and up [F, D], down [D, F] -> [T, D]. Source: qwen35.md 1.6.
at::Tensor swiglu(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& up, const at::Tensor& down);

}  // namespace meshparity::reference

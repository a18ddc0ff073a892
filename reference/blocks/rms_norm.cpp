#include "reference/blocks/rms_norm.h"

namespace meshparity::reference {
namespace {

at::Tensor normalised(const at::Tensor& x, double eps) {
  return x * at::rsqrt(x.square().mean(-1, /*keepdim=*/true) + eps);
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return normalised(x, eps) * (1 + weight);
}

at::Tensor gated_rms_norm(const at::Tensor& x, const at::Tensor& gate, const at::Tensor& weight, double eps) {
  return normalised(x, eps) * weight * at::silu(gate);
}

}  // namespace meshparity::reference

#include "impl/blocks/rms_norm.h"

namespace meshparity::impl {
namespace {

constexpr double kL2Epsilon = 1e-6;

// [T, n*width] -> [T, n, width]; spelled out because -1 is ambiguous for zero tokens.
at::Tensor grouped(const at::Tensor& x, std::int64_t width) {
  return x.view({x.size(0), x.size(1) / width, width});
}

// dx of x * rho, rho = (mean x^2 + eps)^(-1/2), from the gradient u of x * rho.
at::Tensor normalise_backward(at::Tensor u, const at::Tensor& xhat, const at::Tensor& rho) {
  const at::Tensor mean = (u * xhat).mean(-1, /*keepdim=*/true);
  return u.addcmul_(xhat, mean, -1).mul_(rho);
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  at::Tensor rho, xhat, scale, y;
  {
    const BelowAutograd guard;
    const at::Tensor xg = grouped(x, weight.size(0));
    rho = xg.square().mean(-1, true).add_(eps).rsqrt_();
    xhat = xg * rho;
    scale = weight + 1;
    y = (xhat * scale).view(x.sizes());
  }
  return attach("rms_norm", {x, weight}, {y}, [rho, xhat, scale](const Tensors& grads) {
    const at::Tensor dy = grads[0].reshape(xhat.sizes());
    const at::Tensor dw = (dy * xhat).sum(at::IntArrayRef({0, 1}));
    return Tensors{normalise_backward(dy * scale, xhat, rho).view(grads[0].sizes()), dw};
  })[0];
}

at::Tensor gated_rms_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& z, double eps) {
  at::Tensor rho, xhat, zg, gate, y;
  {
    const BelowAutograd guard;
    const at::Tensor xg = grouped(x, weight.size(0));
    zg = grouped(z, weight.size(0));
    rho = xg.square().mean(-1, true).add_(eps).rsqrt_();
    xhat = xg * rho;
    gate = at::silu(zg);
    y = (xhat * weight).mul_(gate).view(x.sizes());
  }
  return attach("gated_rms_norm", {x, weight, z}, {y}, [rho, xhat, weight, zg, gate](const Tensors& grads) {
    const at::Tensor dy = grads[0].reshape(xhat.sizes());
    const at::Tensor dn = dy * gate;  // gradient of w * xhat
    const at::Tensor dw = (dn * xhat).sum(at::IntArrayRef({0, 1}));
    const at::Tensor dz = at::silu_backward((dy * xhat).mul_(weight), zg);
    return Tensors{normalise_backward(dn * weight, xhat, rho).view(grads[0].sizes()), dw,
                   dz.view(grads[0].sizes())};
  })[0];
}

at::Tensor l2norm(const at::Tensor& x, std::int64_t width) {
  at::Tensor rho, unit;
  {
    const BelowAutograd guard;
    const at::Tensor xg = grouped(x, width);
    rho = xg.square().sum(-1, true).add_(kL2Epsilon).rsqrt_();
    unit = xg * rho;
  }
  return attach("l2norm", {x}, {unit.view(x.sizes())}, [rho, unit](const Tensors& grads) {
    const at::Tensor dy = grads[0].reshape(unit.sizes());
    const at::Tensor dot = (dy * unit).sum(-1, true);
    return Tensors{at::addcmul(dy, unit, dot, -1).mul_(rho).view(grads[0].sizes())};
  })[0];
}

}  // namespace meshparity::impl

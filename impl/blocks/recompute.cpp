#include "impl/blocks/recompute.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace meshparity::impl {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Again = std::function<at::Tensor(const at::Tensor&)>;

struct Kept final : torch::CustomClassHolder {
  Kept(at::Tensor x, Again f) : input(std::move(x)), again(std::move(f)) {}
  at::Tensor input;
  Again again;
};

struct Recomputed : torch::autograd::Function<Recomputed> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const Again& first,
                            const Again& again) {
    context->saved_data["kept"] = c10::IValue::make_capsule(c10::make_intrusive<Kept>(x.detach(), again));
    return first(x.detach());
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto capsule = context->saved_data["kept"].toCapsule();
    const Kept& kept = *static_cast<const Kept*>(capsule.get());
    const at::AutoGradMode record(true);
    const at::Tensor x = kept.input.detach().requires_grad_(true);
    torch::autograd::backward({kept.again(x)}, {grads[0]});
    return {x.grad(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor recomputed(const at::Tensor& x, const Again& first, Again again) {
  if (!at::GradMode::is_enabled()) return first(x);
  return Recomputed::apply(x, first, again);
}

}  // namespace meshparity::impl

#include "impl/blocks/rope.h"

namespace meshparity::impl {

at::Tensor rope(const at::Tensor& x, const PackedTokens& tokens) {
  const std::int64_t d = tokens.rope_partner.size(0);
  const at::Tensor cos = tokens.rope_cos, sin = tokens.rope_sin, partner = tokens.rope_partner;
  at::Tensor y;
  {
    const BelowAutograd guard;
    const at::Tensor heads = x.view({x.size(0), x.size(1) / d, d});
    y = (heads * cos).addcmul_(heads.index_select(2, partner), sin).view(x.sizes());
  }
  return attach("rope", {x}, {y}, [cos, sin, partner, d](const Tensors& grads) {
    // The transpose of a rotation is the rotation by the opposite angle: cos stays, sin changes sign.
    const at::Tensor dy = grads[0].reshape({grads[0].size(0), grads[0].size(1) / d, d});
    return Tensors{(dy * cos).addcmul_(dy.index_select(2, partner), sin, -1).view(grads[0].sizes())};
  })[0];
}

}  // namespace meshparity::impl

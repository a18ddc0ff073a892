#include "impl/blocks/feed_forward.h"

namespace meshparity::impl {

at::Tensor feed_forward_block(const BlockContext& context, const UnitWeights& w, const at::Tensor& x,
                              const Site& site) {
  const Primitives& f = context.primitives;
  const Tensors h =
      f.linear(context.tp.enter(x, site + ".mlp"), {w["mlp.gate_proj.weight"], w["mlp.up_proj.weight"]});
  return context.tp.leave(f.linear(f.swiglu(h[0], h[1]), {w["mlp.down_proj.weight"]})[0],
                          site + ".mlp.down_proj");
}

}  // namespace meshparity::impl

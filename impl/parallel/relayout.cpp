#include "impl/parallel/relayout.h"

#include "impl/parallel/index_tensor.h"

namespace meshparity::impl {

Relayout make_relayout(const std::vector<Tokens>& from, const std::vector<Tokens>& to, int rank,
                       at::Device device) {
  const Route route = make_route(from, to, rank);
  return {route.send, route.recv, index_tensor(route.pick, device), index_tensor(route.place, device)};
}

at::Tensor relayout(Collectives& collectives, const Group& group, const at::Tensor& x, const Relayout& move,
                    const Site& site) {
  at::Tensor y;
  {
    const BelowAutograd guard;
    y = collectives.all_to_all(group, x.index_select(0, move.pick), move.send, move.recv, site)
            .index_select(0, move.place);
  }
  Collectives* const c = &collectives;
  const Group* const g = &group;
  return attach("relayout", {x}, {y}, [c, g, move, site](const Tensors& grads) {
    const at::Tensor arrived = at::empty_like(grads[0]).index_copy_(0, move.place, grads[0]);
    const at::Tensor back = c->all_to_all(*g, arrived, move.recv, move.send, site + ":backward");
    return Tensors{at::empty_like(back).index_copy_(0, move.pick, back)};
  })[0];
}

}  // namespace meshparity::impl

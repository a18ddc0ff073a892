#include "impl/parallel/relayout.h"

namespace meshparity::impl {

Relayout make_relayout(const Route& route, at::Device device) {
  return {route.send, route.recv, at::tensor(route.pick, at::kLong).to(device),
          at::tensor(route.place, at::kLong).to(device)};
}

Relayout make_relayout_between(const std::vector<Tokens>& from, const std::vector<Tokens>& to, int rank,
                               at::Device device) {
  return make_relayout(make_route(from, to, rank), device);
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

// The differentiable forms of the collectives. Each is a linear map over the group; its backward is the
// adjoint, where a tensor that all ranks hold alike counts once. To add a form: its map and its adjoint
// below, its function in comm.h, and its adjoint test.
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>
#include <utility>

#include "harness/types/error.h"
#include "impl/comm/comm.h"

namespace meshparity::impl {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// What backward needs: no tensor is saved, so a graph holds no activation on account of a collective.
struct Saved final : torch::CustomClassHolder {
  Saved(Collectives& c, const Group& g, const Site& s) : collectives(c), group(g), site(s + ":backward") {}
  Collectives& collectives;
  Group group;  // its own: the caller's may be gone by then
  Site site;
  at::Tensor (*adjoint)(const Saved&, const at::Tensor& g, const Site&) = nullptr;
  std::vector<std::int64_t> sizes, recv;
  std::int64_t dim = 0;
};
using SavedPointer = c10::intrusive_ptr<Saved>;

// A linear map over the group, as forward or as the adjoint of another. `site`: the forward's, or the
// backward's.
using Map = at::Tensor (*)(const Saved& s, const at::Tensor& x, const Site& site);

at::Tensor same(const Saved&, const at::Tensor& x, const Site&) {
  return x.view_as(x);
}
at::Tensor sum(const Saved& s, const at::Tensor& x, const Site& site) {
  return s.collectives.all_reduce(s.group, x, site);
}
at::Tensor all_parts(const Saved& s, const at::Tensor& x, const Site& site) {
  return s.collectives.all_gather(s.group, x, s.sizes, s.dim, site);
}
at::Tensor own_part_of_sum(const Saved& s, const at::Tensor& x, const Site& site) {
  return s.collectives.reduce_scatter(s.group, x, s.sizes, s.dim, site);
}
// A copy: a slice would keep the whole tensor alive on every rank.
at::Tensor own_part(const Saved& s, const at::Tensor& x, const Site&) {
  const auto own = s.sizes.begin() + s.group.rank();
  return x.narrow(s.dim, std::accumulate(s.sizes.begin(), own, std::int64_t{0}), *own).clone();
}
at::Tensor to_others(const Saved& s, const at::Tensor& x, const Site& site) {
  return s.collectives.all_to_all(s.group, x, s.sizes, s.recv, site);
}
at::Tensor from_others(const Saved& s, const at::Tensor& x, const Site& site) {
  return s.collectives.all_to_all(s.group, x, s.recv, s.sizes, site);
}

struct Form : Function<Form> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, SavedPointer saved,
                            const Site& site, Map map) {
    context->saved_data["collective"] = c10::IValue::make_capsule(saved);
    return map(*saved, x, site);
  }
  // Only x has a gradient; the other arguments of forward are not tensors. An incoming gradient that nothing
  // defined is zeros by now (autograd materialises it), so every rank whose node runs takes part in the
  // collective.
  static variable_list backward(AutogradContext* context, variable_list g) {
    const auto capsule = context->saved_data["collective"].toCapsule();
    const Saved& saved = *static_cast<const Saved*>(capsule.get());
    if (at::GradMode::is_enabled())
      throw RunError(saved.site + ": collectives have no second derivative (create_graph)");
    return {saved.adjoint(saved, g[0], saved.site), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

at::Tensor form(Collectives& collectives, const Group& group, const at::Tensor& x, const Site& site, Map map,
                Map adjoint, const std::vector<std::int64_t>& sizes = {}, std::int64_t dim = 0,
                const std::vector<std::int64_t>& recv = {}) {
  auto saved = c10::make_intrusive<Saved>(collectives, group, site);
  saved->adjoint = adjoint;
  saved->sizes = sizes;
  saved->recv = recv;
  saved->dim = dim;
  return Form::apply(x, saved, site, map);
}

}  // namespace

at::Tensor copy_to(Collectives& c, const Group& group, const at::Tensor& x, const Site& site) {
  return group.size() == 1 ? x : form(c, group, x, site, same, sum);
}

at::Tensor reduce_from(Collectives& c, const Group& group, const at::Tensor& x, const Site& site) {
  return group.size() == 1 ? x : form(c, group, x, site, sum, same);
}

at::Tensor gather_from(Collectives& c, const Group& group, const at::Tensor& x,
                       const std::vector<std::int64_t>& sizes, std::int64_t dim, const Site& site) {
  if (group.size() == 1) return c.all_gather(group, x, sizes, dim, site);
  return form(c, group, x, site, all_parts, own_part_of_sum, sizes, dim);
}

at::Tensor scatter_to(Collectives& c, const Group& group, const at::Tensor& x,
                      const std::vector<std::int64_t>& sizes, std::int64_t dim, const Site& site) {
  if (group.size() == 1) return c.reduce_scatter(group, x, sizes, dim, site);
  return form(c, group, x, site, own_part_of_sum, all_parts, sizes, dim);
}

at::Tensor split_to(Collectives& c, const Group& group, const at::Tensor& x,
                    const std::vector<std::int64_t>& sizes, std::int64_t dim, const Site& site) {
  const bool fits = static_cast<int>(sizes.size()) == group.size() && dim >= -x.dim() && dim < x.dim() &&
                    x.size(dim) == std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
  if (!fits)
    throw RunError(site + ":split on " + group.axis() + ": part sizes do not fit the tensor or the group");
  return group.size() == 1 ? x : form(c, group, x, site, own_part, all_parts, sizes, dim);
}

at::Tensor join_from(Collectives& c, const Group& group, const at::Tensor& x,
                     const std::vector<std::int64_t>& sizes, std::int64_t dim, const Site& site) {
  if (group.size() == 1) return c.all_gather(group, x, sizes, dim, site);
  return form(c, group, x, site, all_parts, own_part, sizes, dim);
}

at::Tensor exchange(Collectives& c, const Group& group, const at::Tensor& x,
                    const std::vector<std::int64_t>& send, const std::vector<std::int64_t>& recv,
                    const Site& site) {
  if (group.size() == 1) return c.all_to_all(group, x, send, recv, site);
  return form(c, group, x, site, to_others, from_others, send, 0, recv);
}

}  // namespace meshparity::impl

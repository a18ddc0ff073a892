// The differentiable forms of the collectives. Each is a linear map over the group; its backward is the
// adjoint, where a tensor that all ranks hold alike counts once. To add a form: a struct with forward and
// backward below, its function in comm.h, and its adjoint test.
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
  std::vector<std::int64_t> sizes, recv;
  std::int64_t dim = 0;
};
using SavedPointer = c10::intrusive_ptr<Saved>;

void save(AutogradContext* context, const SavedPointer& saved) {
  context->saved_data["collective"] = c10::IValue::make_capsule(saved);
}

// An incoming gradient that nothing defined is zeros by now (autograd materialises it), so every rank whose
// node runs takes part in the collective.
const Saved& saved_for(AutogradContext* context) {
  const auto capsule = context->saved_data["collective"].toCapsule();
  const Saved& saved = *static_cast<const Saved*>(capsule.get());
  if (at::GradMode::is_enabled())
    throw RunError(saved.site + ": collectives have no second derivative (create_graph)");
  return saved;
}

// Only x has a gradient; the other arguments of forward are not tensors.
template <std::size_t arguments>
variable_list gradient(at::Tensor g) {
  variable_list result(arguments);
  result[0] = std::move(g);
  return result;
}

struct CopyTo : Function<CopyTo> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, SavedPointer saved, const Site&) {
    save(context, saved);
    return x.view_as(x);
  }
  static variable_list backward(AutogradContext* context, variable_list g) {
    const Saved& s = saved_for(context);
    return gradient<3>(s.collectives.all_reduce(s.group, g[0], s.site));
  }
};

struct ReduceFrom : Function<ReduceFrom> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, SavedPointer saved,
                            const Site& site) {
    save(context, saved);
    return saved->collectives.all_reduce(saved->group, x, site);
  }
  static variable_list backward(AutogradContext* context, variable_list g) {
    saved_for(context);
    return gradient<3>(g[0]);
  }
};

struct GatherFrom : Function<GatherFrom> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, SavedPointer saved,
                            const Site& site) {
    save(context, saved);
    return saved->collectives.all_gather(saved->group, x, saved->sizes, saved->dim, site);
  }
  static variable_list backward(AutogradContext* context, variable_list g) {
    const Saved& s = saved_for(context);
    return gradient<3>(s.collectives.reduce_scatter(s.group, g[0], s.sizes, s.dim, s.site));
  }
};

struct ScatterTo : Function<ScatterTo> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, SavedPointer saved,
                            const Site& site) {
    save(context, saved);
    return saved->collectives.reduce_scatter(saved->group, x, saved->sizes, saved->dim, site);
  }
  static variable_list backward(AutogradContext* context, variable_list g) {
    const Saved& s = saved_for(context);
    return gradient<3>(s.collectives.all_gather(s.group, g[0], s.sizes, s.dim, s.site));
  }
};

struct SplitTo : Function<SplitTo> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, SavedPointer saved, const Site&) {
    save(context, saved);
    const auto own = saved->sizes.begin() + saved->group.rank();
    // A copy: a slice would keep the whole tensor alive on every rank.
    return x.narrow(saved->dim, std::accumulate(saved->sizes.begin(), own, std::int64_t{0}), *own).clone();
  }
  static variable_list backward(AutogradContext* context, variable_list g) {
    const Saved& s = saved_for(context);
    return gradient<3>(s.collectives.all_gather(s.group, g[0], s.sizes, s.dim, s.site));
  }
};

struct JoinFrom : Function<JoinFrom> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, SavedPointer saved,
                            const Site& site) {
    save(context, saved);
    return saved->collectives.all_gather(saved->group, x, saved->sizes, saved->dim, site);
  }
  static variable_list backward(AutogradContext* context, variable_list g) {
    const Saved& s = saved_for(context);
    const auto own = s.sizes.begin() + s.group.rank();
    return gradient<3>(
        g[0].narrow(s.dim, std::accumulate(s.sizes.begin(), own, std::int64_t{0}), *own).clone());
  }
};

struct Exchange : Function<Exchange> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, SavedPointer saved,
                            const Site& site) {
    save(context, saved);
    return saved->collectives.all_to_all(saved->group, x, saved->sizes, saved->recv, site);
  }
  static variable_list backward(AutogradContext* context, variable_list g) {
    const Saved& s = saved_for(context);
    return gradient<3>(s.collectives.all_to_all(s.group, g[0], s.recv, s.sizes, s.site));
  }
};

SavedPointer pack(Collectives& collectives, const Group& group, const Site& site,
                  const std::vector<std::int64_t>& sizes = {}, std::int64_t dim = 0,
                  const std::vector<std::int64_t>& recv = {}) {
  auto saved = c10::make_intrusive<Saved>(collectives, group, site);
  saved->sizes = sizes;
  saved->recv = recv;
  saved->dim = dim;
  return saved;
}

}  // namespace

at::Tensor copy_to(Collectives& c, const Group& group, const at::Tensor& x, const Site& site) {
  if (group.size() == 1) return x;
  return CopyTo::apply(x, pack(c, group, site), site);
}

at::Tensor reduce_from(Collectives& c, const Group& group, const at::Tensor& x, const Site& site) {
  if (group.size() == 1) return x;
  return ReduceFrom::apply(x, pack(c, group, site), site);
}

at::Tensor gather_from(Collectives& c, const Group& group, const at::Tensor& x,
                       const std::vector<std::int64_t>& sizes, std::int64_t dim, const Site& site) {
  if (group.size() == 1) return c.all_gather(group, x, sizes, dim, site);
  return GatherFrom::apply(x, pack(c, group, site, sizes, dim), site);
}

at::Tensor scatter_to(Collectives& c, const Group& group, const at::Tensor& x,
                      const std::vector<std::int64_t>& sizes, std::int64_t dim, const Site& site) {
  if (group.size() == 1) return c.reduce_scatter(group, x, sizes, dim, site);
  return ScatterTo::apply(x, pack(c, group, site, sizes, dim), site);
}

at::Tensor split_to(Collectives& c, const Group& group, const at::Tensor& x,
                    const std::vector<std::int64_t>& sizes, std::int64_t dim, const Site& site) {
  const bool fits = static_cast<int>(sizes.size()) == group.size() && dim >= -x.dim() && dim < x.dim() &&
                    x.size(dim) == std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
  if (!fits)
    throw RunError(site + ":split on " + group.axis() + ": part sizes do not fit the tensor or the group");
  if (group.size() == 1) return x;
  return SplitTo::apply(x, pack(c, group, site, sizes, dim), site);
}

at::Tensor join_from(Collectives& c, const Group& group, const at::Tensor& x,
                     const std::vector<std::int64_t>& sizes, std::int64_t dim, const Site& site) {
  if (group.size() == 1) return c.all_gather(group, x, sizes, dim, site);
  return JoinFrom::apply(x, pack(c, group, site, sizes, dim), site);
}

at::Tensor exchange(Collectives& c, const Group& group, const at::Tensor& x,
                    const std::vector<std::int64_t>& send, const std::vector<std::int64_t>& recv,
                    const Site& site) {
  if (group.size() == 1) return c.all_to_all(group, x, send, recv, site);
  return Exchange::apply(x, pack(c, group, site, send, 0, recv), site);
}

}  // namespace meshparity::impl

// What planted faults are made of: damaged collectives, edits of plan rows, composition of
// hooks.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "harness/types/glob.h"
#include "impl/comm/pass_on.h"
#include "impl/parallel/plan.h"
#include "impl/seams.h"
#include "scenarios/faults/fault.h"

namespace meshparity::faults {

using impl::PassOn;

// The collectives hook that wraps in `Decorator(inner, arguments...)`.
template <class Decorator, class... Arguments>
auto wrap_collectives(Arguments... arguments) {
  return [=](std::shared_ptr<impl::Collectives> inner) -> std::shared_ptr<impl::Collectives> {
    return std::make_shared<Decorator>(std::move(inner), arguments...);
  };
}

// A plan hook that edits every row whose name matches the glob.
inline auto edit_rows(std::string glob, std::function<void(impl::PlanRow&)> edit) {
  return [glob = std::move(glob), edit = std::move(edit)](impl::Plan& plan, const Mesh&) {
    for (auto& row : plan.rows)
      if (glob_match(glob, row.name)) edit(row);
  };
}

using Damage = std::function<at::Tensor(const at::Tensor& arrived, const impl::Group& group)>;

// Damages what an all-gather, all-to-all, reduce-scatter or all-reduce brings, at the sites that match.
class Damaged : public PassOn {
 public:
  Damaged(std::shared_ptr<impl::Collectives> inner, std::string sites, Damage damage)
      : PassOn(std::move(inner)), sites_(std::move(sites)), damage_(std::move(damage)) {}
  at::Tensor all_reduce(const impl::Group& group, const at::Tensor& x, const impl::Site& site) override {
    return after(PassOn::all_reduce(group, x, site), group, site);
  }
  at::Tensor all_gather(const impl::Group& group, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                        std::int64_t dim, const impl::Site& site) override {
    return after(PassOn::all_gather(group, x, sizes, dim, site), group, site);
  }
  at::Tensor reduce_scatter(const impl::Group& group, const at::Tensor& x,
                            const std::vector<std::int64_t>& sizes, std::int64_t dim,
                            const impl::Site& site) override {
    return after(PassOn::reduce_scatter(group, x, sizes, dim, site), group, site);
  }
  at::Tensor all_to_all(const impl::Group& group, const at::Tensor& x, const std::vector<std::int64_t>& send,
                        const std::vector<std::int64_t>& recv, const impl::Site& site) override {
    return after(PassOn::all_to_all(group, x, send, recv, site), group, site);
  }

 private:
  at::Tensor after(const at::Tensor& arrived, const impl::Group& group, const impl::Site& site) {
    return group.size() > 1 && glob_match(sites_, site) ? damage_(arrived, group) : arrived;
  }
  std::string sites_;
  Damage damage_;
};

inline auto damaged(std::string sites, Damage damage) {
  return [=](impl::Seams& seams) { seams.collectives = wrap_collectives<Damaged>(sites, damage); };
}

}  // namespace meshparity::faults

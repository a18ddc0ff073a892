// What planted faults are made of: collectives that pass everything on, edits of plan rows, composition of
// hooks.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "harness/types/glob.h"
#include "impl/comm/comm.h"
#include "impl/parallel/plan.h"
#include "impl/seams.h"
#include "scenarios/faults/fault.h"

namespace meshparity::faults {

// Passes every call to the wrapped collectives; a fault overrides the one it breaks.
class PassOn : public impl::Collectives {
 public:
  explicit PassOn(std::shared_ptr<impl::Collectives> inner) : inner_(std::move(inner)) {}
  at::Tensor all_reduce(const impl::Group& group, const at::Tensor& x, const impl::Site& site) override {
    return inner_->all_reduce(group, x, site);
  }
  at::Tensor all_reduce_max(const impl::Group& group, const at::Tensor& x, const impl::Site& site) override {
    return inner_->all_reduce_max(group, x, site);
  }
  at::Tensor all_gather(const impl::Group& group, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                        std::int64_t dim, const impl::Site& site) override {
    return inner_->all_gather(group, x, sizes, dim, site);
  }
  at::Tensor reduce_scatter(const impl::Group& group, const at::Tensor& x,
                            const std::vector<std::int64_t>& sizes, std::int64_t dim,
                            const impl::Site& site) override {
    return inner_->reduce_scatter(group, x, sizes, dim, site);
  }
  at::Tensor all_to_all(const impl::Group& group, const at::Tensor& x, const std::vector<std::int64_t>& send,
                        const std::vector<std::int64_t>& recv, const impl::Site& site) override {
    return inner_->all_to_all(group, x, send, recv, site);
  }
  void barrier(const impl::Group& group, const impl::Site& site) override { inner_->barrier(group, site); }
  void send(const impl::Group& group, const at::Tensor& x, int to, const impl::Site& site) override {
    inner_->send(group, x, to, site);
  }
  void recv(const impl::Group& group, at::Tensor& x, int from, const impl::Site& site) override {
    inner_->recv(group, x, from, site);
  }
  void finish_sends() override { inner_->finish_sends(); }

 protected:
  impl::Collectives& inner() { return *inner_; }

 private:
  std::shared_ptr<impl::Collectives> inner_;
};

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

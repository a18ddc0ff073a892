// Collectives that pass every call on: what a decorator of collectives starts from.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "impl/comm/comm.h"

namespace meshparity::impl {

// A decorator overrides the calls it changes.
class PassOn : public Collectives {
 public:
  explicit PassOn(std::shared_ptr<Collectives> inner) : inner_(std::move(inner)) {}
  at::Tensor all_reduce(const Group& group, const at::Tensor& x, const Site& site) override {
    return inner_->all_reduce(group, x, site);
  }
  at::Tensor all_reduce_max(const Group& group, const at::Tensor& x, const Site& site) override {
    return inner_->all_reduce_max(group, x, site);
  }
  at::Tensor all_gather(const Group& group, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                        std::int64_t dim, const Site& site) override {
    return inner_->all_gather(group, x, sizes, dim, site);
  }
  at::Tensor reduce_scatter(const Group& group, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                            std::int64_t dim, const Site& site) override {
    return inner_->reduce_scatter(group, x, sizes, dim, site);
  }
  at::Tensor all_to_all(const Group& group, const at::Tensor& x, const std::vector<std::int64_t>& send,
                        const std::vector<std::int64_t>& recv, const Site& site) override {
    return inner_->all_to_all(group, x, send, recv, site);
  }
  void barrier(const Group& group, const Site& site) override { inner_->barrier(group, site); }
  void send(const Group& group, const at::Tensor& x, int to, const Site& site) override {
    inner_->send(group, x, to, site);
  }
  void recv(const Group& group, at::Tensor& x, int from, const Site& site) override {
    inner_->recv(group, x, from, site);
  }
  void finish_sends() override { inner_->finish_sends(); }

 protected:
  Collectives& inner() { return *inner_; }

 private:
  std::shared_ptr<Collectives> inner_;
};

}  // namespace meshparity::impl

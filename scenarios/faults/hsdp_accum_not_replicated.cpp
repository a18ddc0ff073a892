// Hybrid sharding defers the all-reduce over replicas to the last micro-batch and adds the earlier ones'
// sums afterwards, so that these never reach the other replicas.
#include <map>

#include "scenarios/faults/decorators.h"

namespace meshparity::faults {
namespace {

class ReduceLastMicroBatchOnly : public PassOn {
 public:
  using PassOn::PassOn;
  at::Tensor all_gather(const impl::Group& group, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                        std::int64_t dim, const impl::Site& site) override {
    if (site.ends_with(".parameters") && last_.emplace(site + ":backward", at::Tensor()).second)
      units_.push_back(site + ":backward");
    return inner().all_gather(group, x, sizes, dim, site);
  }
  at::Tensor reduce_scatter(const impl::Group& group, const at::Tensor& x,
                            const std::vector<std::int64_t>& sizes, std::int64_t dim,
                            const impl::Site& site) override {
    const at::Tensor part = inner().reduce_scatter(group, x, sizes, dim, site);
    if (last_.count(site)) last_[site] = part.clone();
    return part;
  }
  at::Tensor all_reduce(const impl::Group& group, const at::Tensor& x, const impl::Site& site) override {
    if (site != "gradients.dp" || units_.empty()) return inner().all_reduce(group, x, site);
    std::vector<at::Tensor> parts;
    for (const auto& unit : units_) parts.push_back(last_[unit]);
    const at::Tensor last = at::cat(parts);
    return x - last + inner().all_reduce(group, last, site);
  }

 private:
  std::vector<impl::Site> units_;          // in the order of the parameters
  std::map<impl::Site, at::Tensor> last_;  // gradient of the last micro-batch so far
};

}  // namespace

Fault hsdp_accum_not_replicated() {
  return {
      "hsdp-accum-not-replicated",
      "with dp x fsdp the gradients of all micro-batches but the last stay inside their fsdp group",
      "pytorch/pytorch#125484",
      "grads",
      "model.layers.*.mlp.*",
      "gradients not fully reduced: replicas hold different ones",
      {"--model tiny-dense --batch rows --mesh dp3.fsdp2", "--model tiny-moe --batch rows --mesh dp2.fsdp3"},
      [](impl::Seams& seams) { seams.collectives = wrap_collectives<ReduceLastMicroBatchOnly>(); }};
}

}  // namespace meshparity::faults

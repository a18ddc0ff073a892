// One layer's parameters are gathered before the optimizer's update arrived: from step 2 on it runs with old
// weights.
#include <map>

#include "scenarios/faults/decorators.h"

namespace meshparity::faults {
namespace {

class KeepFirstGather : public PassOn {
 public:
  using PassOn::PassOn;
  at::Tensor all_gather(const impl::Group& group, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                        std::int64_t dim, const impl::Site& site) override {
    const at::Tensor gathered = inner().all_gather(group, x, sizes, dim, site);
    if (group.axis() != "fsdp" || site.find("layers.2") == std::string::npos) return gathered;
    return first_.emplace(site, gathered.clone()).first->second.clone();
  }

 private:
  std::map<std::string, at::Tensor> first_;
};

}  // namespace

Fault param_gather_stale() {
  return {"param-gather-stale",
          "one layer's parameters are gathered before the update arrived, so step 2 runs it with old weights",
          "NVIDIA/Megatron-LM#950",
          "weights",
          "step2/model.layers.2.*",
          "old weights used in step 2",
          {"--model tiny-dense --batch rows --mesh fsdp2", "--model tiny-moe --batch rows --mesh fsdp3"},
          [](impl::Seams& seams) { seams.collectives = wrap_collectives<KeepFirstGather>(); }};
}

}  // namespace meshparity::faults

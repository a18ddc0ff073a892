// Which dtype a parameter is stored and computed in. Null hooks leave every tensor in the run's dtype (the
// float64 lane); lower-precision lanes and precision faults set one. To add a rule: a hook that looks at the
// checkpoint name.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <string>

namespace meshparity::impl {

struct DtypePolicy {
  using Hook = std::function<at::Tensor(const std::string& name, const at::Tensor& value)>;
  // On this rank's shard, when the weights are loaded. The result is kept in the run's dtype, rounded as the
  // hook left it.
  Hook stored;
  // On the parameter a layer computes with, gathered over fsdp, before its use. Must be differentiable.
  Hook computed;
};

}  // namespace meshparity::impl

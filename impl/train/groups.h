// The groups of ranks that one rank talks to: every axis, and what is summed over several of them.
#pragma once

#include <memory>

#include "impl/comm/comm.h"
#include "impl/parallel/pipeline_messages.h"
#include "impl/parallel/plan.h"

namespace meshparity::impl {

struct Groups {
  std::shared_ptr<Group> tp, kv_replicas, fsdp, replicas, expert_replicas, experts, ep, data, model, ring,
      uly, cp, everyone, tied;
  // Who together sees every decision of the routers of one stage exactly once; null unless asked for.
  std::shared_ptr<Group> routers;
  PipelineGroups pipeline;
};

// Every rank asks for its groups in the same order, as engines over processes need. `routers`: does the loss
// have terms of the router?
Groups make_groups(Engine& engine, const Plan& plan, bool routers);

}  // namespace meshparity::impl

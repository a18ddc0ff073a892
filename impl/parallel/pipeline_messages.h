// What travels between pipeline stages: the residual stream forwards, its gradient backwards; and beside
// them, where the loss has terms of the router, the routers' sums forwards and what follows from them
// backwards. Every kind and direction has a group of its own, so that between two ranks it is one stream in
// order, on any engine.
#pragma once

#include <memory>
#include <vector>

#include "impl/comm/comm.h"

namespace meshparity::impl {

// The ranks at the same place of every stage, in the order of pp.
struct PipelineGroups {
  // To the next pp index; and from the last to the first, where interleaved stages go on.
  std::shared_ptr<Group> activations, activations_around, gradients, gradients_around;
};
PipelineGroups make_pipeline_groups(Engine& engine, const std::vector<int>& members);

// `stage`: number of the virtual stage of this rank; its pp index is stage mod pp. Tensors are contiguous.
void send_activation(Collectives& collectives, const PipelineGroups& groups, int stage, int micro_batch,
                     const at::Tensor& x);
void receive_activation(Collectives& collectives, const PipelineGroups& groups, int stage, int micro_batch,
                        at::Tensor& x);
void send_gradient(Collectives& collectives, const PipelineGroups& groups, int stage, int micro_batch,
                   const at::Tensor& x);
void receive_gradient(Collectives& collectives, const PipelineGroups& groups, int stage, int micro_batch,
                      at::Tensor& x);
void send_router_sums(Collectives& collectives, const PipelineGroups& groups, int stage, int micro_batch,
                      const at::Tensor& sums);
void receive_router_sums(Collectives& collectives, const PipelineGroups& groups, int stage, int micro_batch,
                         at::Tensor& sums);
void send_router_shares(Collectives& collectives, const PipelineGroups& groups, int stage, int micro_batch,
                        const at::Tensor& shares);
void receive_router_shares(Collectives& collectives, const PipelineGroups& groups, int stage, int micro_batch,
                           at::Tensor& shares);

}  // namespace meshparity::impl

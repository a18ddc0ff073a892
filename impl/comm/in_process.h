// The in-process engine: ranks are threads, a collective is memory copies made by the last rank to arrive.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

#include "impl/comm/call.h"
#include "impl/comm/world.h"

namespace meshparity::impl {

// A c10d backend over one Meeting, seen from one member. Beyond what c10d asks of _allgather_base and
// _reduce_scatter_base, parts may be uneven or empty: they lie one after another in rank order. Reductions:
// SUM and MAX. Tensors must be contiguous. Every call has completed when it returns; the Work it gives is
// always done.
class InProcessBackend final : public c10d::Backend {
 public:
  InProcessBackend(std::shared_ptr<World> world, std::shared_ptr<Meeting> meeting, int member);

  const std::string getBackendName() const override { return "inprocess"; }
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& options) override;
  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor>& tensors,
                                           const c10d::BroadcastOptions& options) override;
  c10::intrusive_ptr<c10d::Work> _allgather_base(at::Tensor& output, at::Tensor& input,
                                                 const c10d::AllgatherOptions& options) override;
  c10::intrusive_ptr<c10d::Work> allgather(std::vector<std::vector<at::Tensor>>& outputs,
                                           std::vector<at::Tensor>& inputs,
                                           const c10d::AllgatherOptions& options) override;
  c10::intrusive_ptr<c10d::Work> _reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                                      const c10d::ReduceScatterOptions& options) override;
  c10::intrusive_ptr<c10d::Work> alltoall_base(at::Tensor& output, at::Tensor& input,
                                               std::vector<std::int64_t>& output_splits,
                                               std::vector<std::int64_t>& input_splits,
                                               const c10d::AllToAllOptions& options) override;
  c10::intrusive_ptr<c10d::Work> barrier(const c10d::BarrierOptions& options) override;
  // A send never waits for its receiver; what one member sends another arrives in order, tags are not looked
  // at.
  c10::intrusive_ptr<c10d::Work> send(std::vector<at::Tensor>& tensors, int to, int tag) override;
  c10::intrusive_ptr<c10d::Work> recv(std::vector<at::Tensor>& tensors, int from, int tag) override;

 private:
  c10::intrusive_ptr<c10d::Work> meet(Call& call);

  std::shared_ptr<World> world_;  // outlives the meeting, which refers to it
  std::shared_ptr<Meeting> meeting_;
  int member_;
  c10::intrusive_ptr<c10d::Work> done_;
};

// A backend for a group of one rank, on any engine.
c10::intrusive_ptr<c10d::Backend> make_single_backend();

}  // namespace meshparity::impl

// c10d calls turned into Calls and checked as far as one rank can check them alone.
#include <numeric>
#include <utility>

#include "harness/types/error.h"
#include "impl/comm/in_process.h"

namespace meshparity::impl {
namespace {

struct DoneWork final : c10d::Work {
  bool isCompleted() override { return true; }
  bool isSuccess() const override { return true; }
  bool wait(std::chrono::milliseconds) override { return true; }
  void synchronize() override {}
};

[[noreturn]] void refuse(const std::string& what) {
  throw RunError(CallScope::site() + ": " + what);
}

const at::Tensor& contiguous_tensor(const at::Tensor& x, const char* what) {
  if (!x.defined()) refuse(std::string(what) + " is undefined");
  if (!x.is_contiguous()) refuse(std::string(what) + " is not contiguous");
  return x;
}

const at::Tensor& only_tensor(const std::vector<at::Tensor>& tensors) {
  if (tensors.size() != 1) refuse("takes one tensor per rank, got " + std::to_string(tensors.size()));
  return contiguous_tensor(tensors[0], "tensor");
}

void check_same_kind(const at::Tensor& output, const at::Tensor& input) {
  if (output.scalar_type() != input.scalar_type()) refuse("input and output dtypes differ");
  if (output.device().type() != input.device().type()) refuse("input and output devices differ");
}

// Given splits, or equal ones if none are given.
std::vector<std::int64_t> splits_of(const at::Tensor& x, const std::vector<std::int64_t>& given, int size,
                                    const char* what) {
  const std::int64_t rows = x.dim() ? x.size(0) : 0;
  if (given.empty()) {
    if (rows % size != 0)
      refuse(std::string(what) + " rows do not divide by the group and no splits are given");
    return std::vector<std::int64_t>(static_cast<std::size_t>(size), rows / size);
  }
  bool fits = static_cast<int>(given.size()) == size && x.dim() > 0;
  for (std::int64_t rows_of_one : given) fits = fits && rows_of_one >= 0;
  if (!fits || std::accumulate(given.begin(), given.end(), std::int64_t{0}) != rows) {
    refuse(std::string(what) + " splits " + list_text(given) + " do not fit " + list_text(x.sizes()));
  }
  return given;
}

}  // namespace

InProcessBackend::InProcessBackend(std::shared_ptr<World> world, std::shared_ptr<Meeting> meeting, int member)
    : c10d::Backend(member, static_cast<int>(meeting->members().size())),
      world_(std::move(world)),
      meeting_(std::move(meeting)),
      member_(member),
      done_(c10::make_intrusive<DoneWork>()) {}

c10::intrusive_ptr<c10d::Work> InProcessBackend::meet(Call& call) {
  call.site = &CallScope::site();
  call.parts = CallScope::parts();
  meeting_->meet(member_, call);
  return done_;
}

c10::intrusive_ptr<c10d::Work> InProcessBackend::allreduce(std::vector<at::Tensor>& tensors,
                                                           const c10d::AllreduceOptions& options) {
  const auto reduction = static_cast<c10d::ReduceOp::RedOpType>(options.reduceOp);
  if (reduction != c10d::ReduceOp::SUM && reduction != c10d::ReduceOp::MAX)
    refuse("reduces by SUM and MAX only");
  Call call;
  call.op = reduction == c10d::ReduceOp::SUM ? Op::all_reduce_sum : Op::all_reduce_max;
  call.input = only_tensor(tensors);
  call.outputs = {call.input};
  return meet(call);
}

c10::intrusive_ptr<c10d::Work> InProcessBackend::broadcast(std::vector<at::Tensor>& tensors,
                                                           const c10d::BroadcastOptions& options) {
  if (options.rootRank < 0 || options.rootRank >= getSize()) refuse("root is not a rank of the group");
  Call call;
  call.op = Op::broadcast;
  call.root = options.rootRank;
  call.input = only_tensor(tensors);
  call.outputs = {call.input};
  return meet(call);
}

c10::intrusive_ptr<c10d::Work> InProcessBackend::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                                 const c10d::AllgatherOptions&) {
  Call call;
  call.op = Op::all_gather;
  call.input = contiguous_tensor(input, "input");
  call.outputs = {contiguous_tensor(output, "output")};
  check_same_kind(output, input);
  return meet(call);
}

c10::intrusive_ptr<c10d::Work> InProcessBackend::allgather(std::vector<std::vector<at::Tensor>>& outputs,
                                                           std::vector<at::Tensor>& inputs,
                                                           const c10d::AllgatherOptions&) {
  Call call;
  call.op = Op::all_gather_list;
  call.input = only_tensor(inputs);
  if (outputs.size() != 1 || static_cast<int>(outputs[0].size()) != getSize()) {
    refuse("takes one output per rank of the group");
  }
  for (const at::Tensor& output : outputs[0]) {
    call.outputs.push_back(contiguous_tensor(output, "output"));
    check_same_kind(output, call.input);
  }
  return meet(call);
}

c10::intrusive_ptr<c10d::Work> InProcessBackend::_reduce_scatter_base(
    at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& options) {
  if (static_cast<c10d::ReduceOp::RedOpType>(options.reduceOp) != c10d::ReduceOp::SUM) {
    refuse("reduce-scatter sums only");
  }
  Call call;
  call.op = Op::reduce_scatter;
  call.input = contiguous_tensor(input, "input");
  call.outputs = {contiguous_tensor(output, "output")};
  check_same_kind(output, input);
  return meet(call);
}

c10::intrusive_ptr<c10d::Work> InProcessBackend::alltoall_base(at::Tensor& output, at::Tensor& input,
                                                               std::vector<std::int64_t>& output_splits,
                                                               std::vector<std::int64_t>& input_splits,
                                                               const c10d::AllToAllOptions&) {
  Call call;
  call.op = Op::all_to_all;
  call.input = contiguous_tensor(input, "input");
  call.outputs = {contiguous_tensor(output, "output")};
  check_same_kind(output, input);
  const auto send = splits_of(input, input_splits, getSize(), "input");
  const auto receive = splits_of(output, output_splits, getSize(), "output");
  if (input.sizes().slice(1) != output.sizes().slice(1)) refuse("input and output rows differ in shape");
  call.send = send;
  call.receive = receive;
  return meet(call);
}

c10::intrusive_ptr<c10d::Work> InProcessBackend::barrier(const c10d::BarrierOptions&) {
  Call call;
  call.op = Op::barrier;
  return meet(call);
}

c10::intrusive_ptr<c10d::Work> InProcessBackend::send(std::vector<at::Tensor>& tensors, int to, int) {
  if (to < 0 || to >= getSize() || to == member_) refuse("receiver is no other rank of the group");
  Call call;
  call.op = Op::send;
  call.root = to;
  call.input = only_tensor(tensors);
  call.site = &CallScope::site();
  meeting_->send(member_, call);
  return done_;
}

c10::intrusive_ptr<c10d::Work> InProcessBackend::recv(std::vector<at::Tensor>& tensors, int from, int) {
  if (from < 0 || from >= getSize() || from == member_) refuse("sender is no other rank of the group");
  Call call;
  call.op = Op::receive;
  call.root = from;
  call.input = only_tensor(tensors);
  call.site = &CallScope::site();
  meeting_->receive(member_, call);
  return done_;
}

c10::intrusive_ptr<c10d::Backend> make_single_backend() {
  auto world = std::make_shared<World>(1, InProcessOptions{});
  auto meeting = world->meeting("self", {0});
  return c10::make_intrusive<InProcessBackend>(world, meeting, 0);
}

}  // namespace meshparity::impl

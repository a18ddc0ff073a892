// Carrying a collective out for all its ranks at once. The last rank to arrive does this while the others
// wait, so no rank reads what another still writes, and one wait per collective is enough.
#include <cstring>

#include "impl/comm/call.h"
#include "impl/comm/reduce.h"

namespace meshparity::impl {
namespace {

// A stretch of a flat tensor.
struct Piece {
  const at::Tensor* tensor;
  std::int64_t begin, count;

  void* data() const {
    return static_cast<char*>(tensor->data_ptr()) + begin * static_cast<std::int64_t>(tensor->element_size());
  }
  at::Tensor view() const { return tensor->view({-1}).narrow(0, begin, count); }
};

bool on_host(const at::Tensor& x) {
  return x.device().is_cpu();
}

void copy(const Piece& to, const Piece& from) {
  if (from.count == 0) return;
  if (on_host(*from.tensor) && on_host(*to.tensor)) {
    if (to.data() == from.data()) return;
    std::memcpy(to.data(), from.data(), static_cast<std::size_t>(from.count) * from.tensor->element_size());
  } else {
    to.view().copy_(from.view());
  }
}

// Every target becomes the reduction of all sources, taken in their order.
void reduce(Reduction reduction, const std::vector<Piece>& sources, const std::vector<Piece>& targets) {
  const Piece& first = sources[0];
  if (first.count == 0) return;
  if (on_host(*first.tensor) && reduces_in_memory(first.tensor->scalar_type())) {
    std::vector<const void*> from;
    std::vector<void*> to;
    for (const Piece& source : sources) from.push_back(source.data());
    for (const Piece& target : targets) to.push_back(target.data());
    reduce_buffers(first.tensor->scalar_type(), reduction, from, to, first.count);
    return;
  }
  at::Tensor partial = first.view().clone();
  for (std::size_t s = 1; s < sources.size(); ++s) {
    if (reduction == Reduction::sum) {
      partial.add_(sources[s].view());
    } else {
      partial = at::maximum(partial, sources[s].view());
    }
  }
  for (const Piece& target : targets) target.view().copy_(partial);
}

void all_reduce(const std::vector<const Call*>& calls, const std::vector<int>& order) {
  const std::int64_t count = calls[0]->input.numel();
  std::vector<Piece> sources, targets;
  for (int rank : order) sources.push_back({&calls[rank]->input, 0, count});
  for (const Call* call : calls) targets.push_back({&call->outputs[0], 0, count});
  reduce(calls[0]->op == Op::all_reduce_max ? Reduction::max : Reduction::sum, sources, targets);
}

void all_gather(const std::vector<const Call*>& calls) {
  for (const Call* call : calls) {
    std::int64_t begin = 0;
    for (std::size_t j = 0; j < calls.size(); ++j) {
      const std::int64_t count = calls[j]->input.numel();
      const bool list = call->op == Op::all_gather_list;
      copy({&call->outputs[list ? j : 0], list ? 0 : begin, count}, {&calls[j]->input, 0, count});
      begin += count;
    }
  }
}

void reduce_scatter(const std::vector<const Call*>& calls, const std::vector<int>& order) {
  std::int64_t begin = 0;
  for (const Call* call : calls) {
    const std::int64_t count = call->outputs[0].numel();
    std::vector<Piece> sources;
    for (int rank : order) sources.push_back({&calls[rank]->input, begin, count});
    reduce(Reduction::sum, sources, {{&call->outputs[0], 0, count}});
    begin += count;
  }
}

void all_to_all(const std::vector<const Call*>& calls) {
  std::vector<std::int64_t> sent(calls.size(), 0);  // rows of each source already delivered
  for (std::size_t to = 0; to < calls.size(); ++to) {
    std::int64_t received = 0;
    for (std::size_t from = 0; from < calls.size(); ++from) {
      const at::Tensor& input = calls[from]->input;
      const std::int64_t rows = calls[from]->send[to];
      const std::int64_t width = input.size(0) == 0 ? 0 : input.numel() / input.size(0);
      copy({&calls[to]->outputs[0], received * width, rows * width},
           {&input, sent[from] * width, rows * width});
      sent[from] += rows;
      received += rows;
    }
  }
}

}  // namespace

void perform(const std::vector<const Call*>& calls, const std::vector<int>& order) {
  at::AutoDispatchBelowADInplaceOrView plain;  // buffers, not variables
  switch (calls[0]->op) {
    case Op::all_reduce_sum:
    case Op::all_reduce_max:
      return all_reduce(calls, order);
    case Op::all_gather:
    case Op::all_gather_list:
      return all_gather(calls);
    case Op::reduce_scatter:
      return reduce_scatter(calls, order);
    case Op::all_to_all:
      return all_to_all(calls);
    case Op::broadcast: {
      const at::Tensor& source = calls[static_cast<std::size_t>(calls[0]->root)]->input;
      for (const Call* call : calls)
        copy({&call->outputs[0], 0, source.numel()}, {&source, 0, source.numel()});
      return;
    }
    case Op::barrier:
    case Op::send:
    case Op::receive:  // not collectives: Meeting carries letters itself
      return;
  }
}

}  // namespace meshparity::impl

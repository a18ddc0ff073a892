// What one rank asks of one collective: the unit that the in-process engine compares among ranks and reports.
// Also the channel by which sites reach a backend, whose c10d signatures have no place for them.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

namespace meshparity::impl {

enum class Op {
  all_reduce_sum,
  all_reduce_max,
  all_gather,
  all_gather_list,
  reduce_scatter,
  all_to_all,
  broadcast,
  barrier,
  send,
  receive
};
const char* op_name(Op op);

// Site and part sizes of the collective that this thread is calling. Set around a backend call; nests.
class CallScope {
 public:
  // Both must outlive the scope. `parts` may be empty; given ones must be the same on all ranks.
  CallScope(const std::string& site, c10::ArrayRef<std::int64_t> parts);
  ~CallScope();
  CallScope(const CallScope&) = delete;
  CallScope& operator=(const CallScope&) = delete;

  static const std::string& site();  // "(no site)" outside any scope
  static c10::ArrayRef<std::int64_t> parts();

 private:
  const std::string* outer_site_;
  c10::ArrayRef<std::int64_t> outer_parts_;
};

// Lives on the caller's stack while the rank waits; other ranks read it meanwhile.
struct Call {
  Op op = Op::barrier;
  const std::string* site = nullptr;
  c10::ArrayRef<std::int64_t> parts;
  at::Tensor input;                           // contiguous; undefined for a barrier
  std::vector<at::Tensor> outputs;            // contiguous; one, but for all_gather_list
  c10::ArrayRef<std::int64_t> send, receive;  // rows, all_to_all only
  std::int64_t root = 0;                      // broadcast: the source; send and receive: the other member

  // "all_reduce_sum float64 [4,3] at layers.3.mlp:all_reduce"
  std::string text() const;
};

// Empty if the ranks' calls fit together, else what does not ("dtypes differ").
std::string mismatch(const std::vector<const Call*>& calls);

// Empty if what was sent is what the receiver expects, else what is not.
std::string mismatch(const Call& sent, const Call& expected);

// Carries the collective out for all ranks at once, in the calling thread: reads every input, writes every
// output. `order` is the order in which ranks are summed.
void perform(const std::vector<const Call*>& calls, const std::vector<int>& order);

// "[2,3]"
std::string list_text(c10::ArrayRef<std::int64_t> values);

}  // namespace meshparity::impl

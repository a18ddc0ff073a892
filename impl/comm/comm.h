// Collectives of the implementation, over c10d::Backend. A Group is one mesh axis (or product of axes) seen
// from one rank; every call names its site, from which come the communication log, fault seams and desync
// reports.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

namespace meshparity::impl {

// Where and why a collective happens: "layers.3.linear_attn.out_proj"; the backward of a differentiable form
// calls with "layers.3.linear_attn.out_proj:backward" (this is what a decorator of Collectives sees). Logs
// and reports show event_site, with the operation: "layers.3.linear_attn.out_proj:all_reduce:backward".
using Site = std::string;
std::string event_site(const Site& site, const std::string& op);

// One line of the communication log: elements that left this rank, by a definition that does not depend on
// the engine. With w = group size, own = elements of this rank's part, n = elements of x:
//   all_gather        own * (w-1)
//   reduce_scatter    n - own
//   all_to_all        rows to others * elements per row
//   all_reduce(_max)  as reduce-scatter and all-gather of floor-cut parts: n - own + own * (w-1),
//                     own = cut(n, w, rank)
//   send              n (recv logs nothing)
//   barrier           0
// Groups of one rank log nothing.
struct CommEvent {
  std::string site;  // event_site
  std::string axis;  // "tp", "fsdp", ...
  std::string op;    // all_reduce, all_gather, ...
  std::int64_t elements_sent = 0;
};

class Group {
 public:
  Group(std::string axis, int rank, int size, c10::intrusive_ptr<c10d::Backend> backend);
  const std::string& axis() const { return axis_; }
  int rank() const { return rank_; }
  int size() const { return size_; }
  c10d::Backend& backend() const { return *backend_; }

 private:
  std::string axis_;
  int rank_, size_;
  c10::intrusive_ptr<c10d::Backend> backend_;
};

// The collectives as an object: a fault, a tracer or an accounting layer is a decorator over one of these.
// Sizes are the parts of all group ranks along `dim` (negative: counted from the end), empty parts allowed;
// all ranks give the same list. x has any shape, equal on all ranks but for the parts along `dim`; float64,
// float32, bfloat16, int64 and what else the engine carries; sums are taken in the dtype of x; NaN wins a
// maximum in process and where `ordered`. No call changes its input; results carry no gradient; groups of
// size 1 return x itself. Throws RunError naming site and rank where x does not fit the sizes and, in
// process, where ranks disagree.
class Collectives {
 public:
  virtual ~Collectives() = default;
  virtual at::Tensor all_reduce(const Group& group, const at::Tensor& x, const Site& site) = 0;  // sum
  virtual at::Tensor all_reduce_max(const Group& group, const at::Tensor& x, const Site& site) = 0;
  virtual at::Tensor all_gather(const Group& group, const at::Tensor& x,
                                const std::vector<std::int64_t>& sizes, std::int64_t dim,
                                const Site& site) = 0;
  virtual at::Tensor reduce_scatter(const Group& group, const at::Tensor& x,
                                    const std::vector<std::int64_t>& sizes, std::int64_t dim,
                                    const Site& site) = 0;  // sum
  // Rows of x (dim 0) in order of destination; send[i] rows go to rank i, recv[i] come from it.
  virtual at::Tensor all_to_all(const Group& group, const at::Tensor& x,
                                const std::vector<std::int64_t>& send, const std::vector<std::int64_t>& recv,
                                const Site& site) = 0;
  virtual void barrier(const Group& group, const Site& site) = 0;
  // x to group rank `to`, which calls recv with the same site, shape and dtype. Returns at once; x may change
  // afterwards only once finish_sends has returned. What one rank sends another on a group arrives in order.
  virtual void send(const Group& group, const at::Tensor& x, int to, const Site& site) = 0;
  // Fills x, contiguous, with what group rank `from` sends.
  virtual void recv(const Group& group, at::Tensor& x, int from, const Site& site) = 0;
  // Returns when everything this rank has sent has left it.
  virtual void finish_sends() = 0;
};

// Straight to the backend. Reductions sum in rank order where the engine allows it (in-process; any engine
// with `ordered`: gather and add). Logs every call in `log` if given.
std::shared_ptr<Collectives> make_collectives(std::vector<CommEvent>* log, bool ordered);

// Differentiable forms. Each runs its collectives through the same object, which must outlive the graph. A
// rank takes part in backward if its output reaches its loss, even where the gradient arriving there is
// undefined or empty; all ranks of a group must agree on whether x requires grad. No second derivatives.
// Forward identity, backward all-reduce.
at::Tensor copy_to(Collectives&, const Group&, const at::Tensor& x, const Site&);
// Forward all-reduce, backward identity.
at::Tensor reduce_from(Collectives&, const Group&, const at::Tensor& x, const Site&);
// Forward all-gather, backward reduce-scatter.
at::Tensor gather_from(Collectives&, const Group&, const at::Tensor& x,
                       const std::vector<std::int64_t>& sizes, std::int64_t dim, const Site&);
// Forward reduce-scatter, backward all-gather.
at::Tensor scatter_to(Collectives&, const Group&, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                      std::int64_t dim, const Site&);
// Forward this rank's slice of what all hold alike, backward all-gather.
at::Tensor split_to(Collectives&, const Group&, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                    std::int64_t dim, const Site&);
// Forward all-gather, after which all ranks do the same with all of it; backward this rank's slice. The
// reverse of split_to.
at::Tensor join_from(Collectives&, const Group&, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                     std::int64_t dim, const Site&);
// Forward all-to-all, backward the all-to-all back.
at::Tensor exchange(Collectives&, const Group&, const at::Tensor& x, const std::vector<std::int64_t>& send,
                    const std::vector<std::int64_t>& recv, const Site&);

// Gives every rank its groups. `members` are world ranks in group order and must contain this rank; the same
// call is made by all members (and, on gloo and nccl, in the same order by all).
class Engine {
 public:
  virtual ~Engine() = default;
  virtual int rank() const = 0;
  virtual int world() const = 0;
  virtual std::shared_ptr<Group> group(const std::string& axis, const std::vector<int>& members) = 0;
};

struct InProcessOptions {
  std::uint64_t permute_seed =
      0;  // non-zero: reductions in a seeded order, not rank order (to measure noise)
  double wait_limit_seconds = 60;  // a rank that waits longer in one collective ends the run as a desync
};
// Runs `program` on `world` threads (ATen threads 1 each), one engine each. A rank that throws fails the
// others' pending and later collectives instead of hanging them; the first error (by cause, not by time) is
// rethrown with its rank, InputError as such and everything else as RunError. A mismatched collective (op,
// shape, dtype, part sizes or site differ between ranks) throws at once, naming per rank what each called; so
// does a state in which no rank can go on (ranks wait in different groups, or for one that returned). A rank
// makes its collective calls from its own thread. At most 255 ranks.
void run_in_process(int world, const InProcessOptions& options, const std::function<void(Engine&)>& program);

// One process of a c10d Gloo world on loopback; `store_file` is the rendezvous (FileStore). nccl: CUDA builds
// only.
std::unique_ptr<Engine> make_gloo_engine(int rank, int world, const std::string& store_file,
                                         double timeout_seconds);
std::unique_ptr<Engine> make_nccl_engine(int rank, int world, const std::string& store_file,
                                         double timeout_seconds);

}  // namespace meshparity::impl

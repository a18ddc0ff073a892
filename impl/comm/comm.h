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

// Where and why a collective happens: "layers.3.linear_attn.out_proj". The operation and, in backward,
// ":backward" are appended by the call ("layers.3.linear_attn.out_proj:all_reduce:backward").
using Site = std::string;

// One line of the communication log: elements that left this rank.
struct CommEvent {
  std::string site;
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
// Sizes are the parts of all group ranks along `dim`, empty parts allowed. No call changes its input. Groups
// of size 1 copy nothing.
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
};

// Straight to the backend. Reductions sum in rank order where the engine allows it (in-process; any engine
// with `ordered`: gather and add). Logs every call in `log` if given.
std::shared_ptr<Collectives> make_collectives(std::vector<CommEvent>* log, bool ordered);

// Differentiable forms. Each runs collectives in forward and backward through the same object.
at::Tensor copy_to(Collectives&, const Group&, const at::Tensor& x, const Site&);  // identity | all-reduce
at::Tensor reduce_from(Collectives&, const Group&, const at::Tensor& x,
                       const Site&);  // all-reduce | identity
at::Tensor gather_from(Collectives&, const Group&, const at::Tensor& x,
                       const std::vector<std::int64_t>& sizes, std::int64_t dim,
                       const Site&);  // all-gather | reduce-scatter
at::Tensor scatter_to(Collectives&, const Group&, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                      std::int64_t dim, const Site&);  // reduce-scatter | all-gather
at::Tensor split_to(Collectives&, const Group&, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                    std::int64_t dim, const Site&);  // own slice | all-gather
at::Tensor exchange(Collectives&, const Group&, const at::Tensor& x, const std::vector<std::int64_t>& send,
                    const std::vector<std::int64_t>& recv, const Site&);  // all-to-all | all-to-all

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
      0;  // non-zero: reductions in a seeded order instead of rank order (to measure noise)
};
// Runs `program` on `world` threads (ATen threads 1 each), one engine each. A rank that throws fails the
// others' pending collectives instead of hanging them; the first error (by cause, not by time) is rethrown
// with its rank. A mismatched collective (op, shape, dtype or site differ between ranks) throws at once,
// naming per rank what each called.
void run_in_process(int world, const InProcessOptions& options, const std::function<void(Engine&)>& program);

// One process of a c10d Gloo world on loopback; `store_file` is the rendezvous (FileStore). nccl: CUDA builds
// only.
std::unique_ptr<Engine> make_gloo_engine(int rank, int world, const std::string& store_file,
                                         double timeout_seconds);
std::unique_ptr<Engine> make_nccl_engine(int rank, int world, const std::string& store_file,
                                         double timeout_seconds);

}  // namespace meshparity::impl

// The collectives over any c10d backend. Our own backend takes uneven parts directly; on the others
// everything uneven travels by alltoall_base, which all of them offer with uneven splits.
#include <numeric>
#include <utility>

#include "harness/types/cut.h"
#include "harness/types/error.h"
#include "impl/comm/in_process.h"

namespace meshparity::impl {
namespace {

const std::vector<std::int64_t> kNoSizes;
constexpr char kBackwardSuffix[] = ":backward";

std::int64_t total(const std::vector<std::int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), std::int64_t{0});
}

// The shape of x with `size` along `dim`.
std::vector<std::int64_t> resized(const at::Tensor& x, std::int64_t dim, std::int64_t size) {
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape[static_cast<std::size_t>(dim)] = size;
  return shape;
}

// Elements of x per index along `dim`.
std::int64_t slice_elements(const at::Tensor& x, std::int64_t dim) {
  std::int64_t n = 1;
  for (std::int64_t d = 0; d < x.dim(); ++d) n *= d == dim ? 1 : x.size(d);
  return n;
}

// Do the parts along `dim` lie one after another in memory?
bool parts_are_stretches(const at::Tensor& x, std::int64_t dim) {
  for (std::int64_t d = 0; d < dim; ++d) {
    if (x.size(d) != 1) return false;
  }
  return true;
}

class BackendCollectives final : public Collectives {
 public:
  BackendCollectives(std::vector<CommEvent>* log, bool ordered) : log_(log), ordered_(ordered) {}

  at::Tensor all_reduce(const Group& group, const at::Tensor& x, const Site& site) override {
    return reduced(group, x, false, event_site(site, "all_reduce"));
  }

  at::Tensor all_reduce_max(const Group& group, const at::Tensor& x, const Site& site) override {
    return reduced(group, x, true, event_site(site, "all_reduce_max"));
  }

  at::Tensor all_gather(const Group& group, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                        std::int64_t dim, const Site& site) override {
    const std::string name = event_site(site, "all_gather");
    dim = checked_dim(group, x, sizes, dim, name);
    const std::int64_t own = sizes[static_cast<std::size_t>(group.rank())];
    if (x.size(dim) != own) {
      refuse(group, name, "holds " + list_text(x.sizes()) + ", not its part of " + list_text(sizes));
    }
    if (group.size() == 1) return x;
    const at::AutoDispatchBelowADInplaceOrView plain;
    at::Tensor part = x.contiguous();
    at::Tensor flat = gathered(group, part, sizes, slice_elements(x, dim), name);
    record(group, "all_gather", name, part.numel() * (group.size() - 1));
    if (parts_are_stretches(x, dim)) return flat.view(resized(x, dim, total(sizes)));
    std::vector<at::Tensor> parts;
    std::int64_t begin = 0;
    for (std::int64_t size : sizes) {
      const std::int64_t count = size * slice_elements(x, dim);
      parts.push_back(flat.narrow(0, begin, count).view(resized(x, dim, size)));
      begin += count;
    }
    return at::cat(parts, dim);
  }

  at::Tensor reduce_scatter(const Group& group, const at::Tensor& x, const std::vector<std::int64_t>& sizes,
                            std::int64_t dim, const Site& site) override {
    const std::string name = event_site(site, "reduce_scatter");
    dim = checked_dim(group, x, sizes, dim, name);
    if (x.size(dim) != total(sizes)) {
      refuse(group, name, "holds " + list_text(x.sizes()) + ", not all parts " + list_text(sizes));
    }
    if (group.size() == 1) return x;
    const at::AutoDispatchBelowADInplaceOrView plain;
    at::Tensor flat;
    if (parts_are_stretches(x, dim)) {
      flat = x.contiguous().view({-1});
    } else {
      std::vector<at::Tensor> parts;
      for (const at::Tensor& part : x.split_with_sizes(sizes, dim)) parts.push_back(part.reshape({-1}));
      flat = at::cat(parts);
    }
    at::Tensor own = scattered(group, flat, sizes, slice_elements(x, dim), name);
    record(group, "reduce_scatter", name, flat.numel() - own.numel());
    return own.view(resized(x, dim, sizes[static_cast<std::size_t>(group.rank())]));
  }

  at::Tensor all_to_all(const Group& group, const at::Tensor& x, const std::vector<std::int64_t>& send,
                        const std::vector<std::int64_t>& recv, const Site& site) override {
    const std::string name = event_site(site, "all_to_all");
    checked_dim(group, x, send, 0, name);
    checked_dim(group, x, recv, 0, name);
    if (x.size(0) != total(send)) {
      refuse(group, name, "sends " + list_text(send) + " rows of " + list_text(x.sizes()));
    }
    const auto own = static_cast<std::size_t>(group.rank());
    if (send[own] != recv[own])
      refuse(group, name, "sends itself " + list_text(send) + ", receives " + list_text(recv));
    if (group.size() == 1) return x;
    const at::AutoDispatchBelowADInplaceOrView plain;
    at::Tensor input = x.contiguous();
    at::Tensor output = at::empty(resized(x, 0, total(recv)), x.options());
    exchange_flat(group, output, input, recv, send, kNoSizes, name);
    record(group, "all_to_all", name, (x.size(0) - send[own]) * slice_elements(x, 0));
    return output;
  }

  void barrier(const Group& group, const Site& site) override {
    if (group.size() == 1) return;
    const std::string name = event_site(site, "barrier");
    call(group, name, kNoSizes, [](c10d::Backend& b) { return b.barrier(c10d::BarrierOptions{}); });
    record(group, "barrier", name, 0);
  }

  void send(const Group& group, const at::Tensor& x, int to, const Site& site) override {
    const std::string name = event_site(site, "send");
    const at::AutoDispatchBelowADInplaceOrView plain;
    std::vector<at::Tensor> tensors{x.contiguous()};
    if (in_process(group) || x.numel() > 0) {
      const CallScope scope(site, kNoSizes);
      sends_.push_back(
          {guarded(group, name, [&] { return group.backend().send(tensors, to, 0); }), tensors[0]});
    }
    record(group, "send", name, x.numel());
  }

  void recv(const Group& group, at::Tensor& x, int from, const Site& site) override {
    const std::string name = event_site(site, "recv");
    if (!x.is_contiguous()) refuse(group, name, "tensor is not contiguous");
    if (!in_process(group) && x.numel() == 0) return;
    const at::AutoDispatchBelowADInplaceOrView plain;
    const CallScope scope(site, kNoSizes);
    std::vector<at::Tensor> tensors{x};
    guarded(group, name, [&] { return group.backend().recv(tensors, from, 0); })->wait();
  }

  void finish_sends() override {
    for (const auto& sent : sends_) sent.work->wait();
    sends_.clear();
  }

 private:
  // A tensor on its way out, held until it has left.
  struct Sent {
    c10::intrusive_ptr<c10d::Work> work;
    at::Tensor value;
  };

  [[noreturn]] static void refuse(const Group& group, const std::string& name, const std::string& what) {
    throw RunError(name + " on " + group.axis() + " rank " + std::to_string(group.rank()) + " of " +
                   std::to_string(group.size()) + ": " + what);
  }

  // `dim` counted from the front, after checking what concerns this rank alone.
  static std::int64_t checked_dim(const Group& group, const at::Tensor& x,
                                  const std::vector<std::int64_t>& sizes, std::int64_t dim,
                                  const std::string& name) {
    if (!x.defined()) refuse(group, name, "tensor is undefined");
    if (dim < -x.dim() || dim >= x.dim()) {
      refuse(group, name, "no dimension " + std::to_string(dim) + " in " + list_text(x.sizes()));
    }
    bool fits = static_cast<int>(sizes.size()) == group.size();
    for (std::int64_t size : sizes) fits = fits && size >= 0;
    if (!fits) refuse(group, name, "part sizes " + list_text(sizes) + " do not fit the group");
    return dim < 0 ? dim + x.dim() : dim;
  }

  // One backend call under its site, waited for.
  template <class F>
  static void call(const Group& group, const std::string& name, const std::vector<std::int64_t>& parts, F f) {
    const CallScope scope(name, parts);
    guarded(group, name, [&] {
      const auto work = f(group.backend());
      work->wait();
      return work;
    });
  }

  // Runs f; whatever the engine throws becomes a RunError that names the site.
  template <class F>
  static c10::intrusive_ptr<c10d::Work> guarded(const Group& group, const std::string& name, F f) {
    try {
      return f();
    } catch (const RunError&) {
      throw;
    } catch (const std::exception&) {
      refuse(group, name, error_text(std::current_exception()));
    }
  }

  void record(const Group& group, const char* op, const std::string& name, std::int64_t elements) {
    if (log_) log_->push_back({name, group.axis(), op, elements});
  }

  static bool in_process(const Group& group) {
    return dynamic_cast<InProcessBackend*>(&group.backend()) != nullptr;
  }

  at::Tensor reduced(const Group& group, const at::Tensor& x, bool max, const std::string& name) {
    if (!x.defined()) refuse(group, name, "tensor is undefined");
    if (group.size() == 1) return x;
    const at::AutoDispatchBelowADInplaceOrView plain;
    at::Tensor result;
    if (ordered_) {
      at::Tensor part = x.contiguous();
      const std::vector<std::int64_t> sizes(static_cast<std::size_t>(group.size()), 1);
      at::Tensor all = gathered(group, part, sizes, part.numel(), name).view({group.size(), part.numel()});
      result = (max ? std::get<0>(all.max(0)) : summed(all)).view(x.sizes());
    } else {
      result = x.clone(at::MemoryFormat::Contiguous);
      if (in_process(group) || result.numel() > 0) {
        c10d::AllreduceOptions options;
        options.reduceOp = max ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM;
        std::vector<at::Tensor> tensors{result};
        call(group, name, kNoSizes, [&](c10d::Backend& b) { return b.allreduce(tensors, options); });
      }
    }
    const std::int64_t own = cut(x.numel(), group.size(), group.rank()).size();
    record(group, max ? "all_reduce_max" : "all_reduce", name, x.numel() - own + own * (group.size() - 1));
    return result;
  }

  // Rows added in order: the order of ranks.
  static at::Tensor summed(const at::Tensor& rows) {
    at::Tensor sum = rows[0].clone();
    for (std::int64_t i = 1; i < rows.size(0); ++i) sum.add_(rows[i]);
    return sum;
  }

  // All parts (sizes[i] * unit elements), one after another.
  at::Tensor gathered(const Group& group, at::Tensor& part, const std::vector<std::int64_t>& sizes,
                      std::int64_t unit, const std::string& name) {
    at::Tensor flat = at::empty({total(sizes) * unit}, part.options());
    bool even = true;
    for (std::int64_t size : sizes) even = even && size == sizes[0];
    if (in_process(group) || (even && flat.numel() > 0)) {
      // Ours reports the shape; Gloo wants input and output of one rank.
      at::Tensor own = in_process(group) ? part : part.view({-1});
      call(group, name, sizes,
           [&](c10d::Backend& b) { return b._allgather_base(flat, own, c10d::AllgatherOptions{}); });
      return flat;
    }
    // Everybody gets a copy of this rank's part: more memory than a gather needs, but uneven on every engine.
    const std::vector<std::int64_t> send(sizes.size(), part.numel());
    std::vector<std::int64_t> receive;
    for (std::int64_t size : sizes) receive.push_back(size * unit);
    at::Tensor copies = part.view({1, -1}).repeat({group.size(), 1}).view({-1});
    exchange_flat(group, flat, copies, receive, send, sizes, name);
    return flat;
  }

  // This rank's part of the sum, from all parts one after another.
  at::Tensor scattered(const Group& group, at::Tensor& flat, const std::vector<std::int64_t>& sizes,
                       std::int64_t unit, const std::string& name) {
    const std::int64_t own = sizes[static_cast<std::size_t>(group.rank())] * unit;
    if (in_process(group) && !ordered_) {
      at::Tensor part = at::empty({own}, flat.options());
      call(group, name, sizes, [&](c10d::Backend& b) {
        return b._reduce_scatter_base(part, flat, c10d::ReduceScatterOptions{});
      });
      return part;
    }
    std::vector<std::int64_t> send;
    for (std::int64_t size : sizes) send.push_back(size * unit);
    const std::vector<std::int64_t> receive(sizes.size(), own);
    at::Tensor parts = at::empty({group.size() * own}, flat.options());
    exchange_flat(group, parts, flat, receive, send, sizes, name);
    return summed(parts.view({group.size(), own}));
  }

  void exchange_flat(const Group& group, at::Tensor& output, at::Tensor& input,
                     std::vector<std::int64_t> receive, std::vector<std::int64_t> send,
                     const std::vector<std::int64_t>& sizes, const std::string& name) {
    // Rows without elements: nothing to carry for anybody.
    if (!in_process(group) && slice_elements(input, 0) == 0) return;
    call(group, name, sizes, [&](c10d::Backend& b) {
      return b.alltoall_base(output, input, receive, send, c10d::AllToAllOptions{});
    });
  }

  std::vector<CommEvent>* log_;
  bool ordered_;
  std::vector<Sent> sends_;
};

}  // namespace

std::string event_site(const Site& site, const std::string& op) {
  const std::size_t suffix = sizeof(kBackwardSuffix) - 1;
  if (site.size() >= suffix && site.compare(site.size() - suffix, suffix, kBackwardSuffix) == 0) {
    return site.substr(0, site.size() - suffix) + ":" + op + kBackwardSuffix;
  }
  return site + ":" + op;
}

std::shared_ptr<Collectives> make_collectives(std::vector<CommEvent>* log, bool ordered) {
  return std::make_shared<BackendCollectives>(log, ordered);
}

}  // namespace meshparity::impl

#include "impl/blocks/experts.h"

#include <algorithm>

#include "impl/parallel/index_tensor.h"

namespace meshparity::impl {
namespace {

// Consecutive experts whose rows are multiplied as one batch, each padded to `rows`.
struct Segment {
  std::int64_t first = 0, count = 0;  // experts
  std::int64_t rows = 0;              // per expert
  std::int64_t offset = 0;            // of its first row among all rows
};

// Where every (token, slot) pair goes. Built on the host: k*T integers.
struct Dispatch {
  std::vector<Segment> segments;
  std::int64_t rows = 0;  // all rows, padding included
  at::Tensor position;    // [T*k] row of the pair
};

// A batch of small products costs one call instead of one per expert; padding may at most double the rows
// (plus a little), so very unequal experts fall into separate segments and memory stays within a constant of
// k*T.
Dispatch dispatch_of(const at::Tensor& experts, std::int64_t expert_count) {
  const at::Tensor host = experts.to(at::kCPU).contiguous();
  const auto* chosen = host.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> counts(expert_count, 0), start(expert_count, 0);
  for (std::int64_t i = 0; i < host.numel(); ++i) ++counts[chosen[i]];
  constexpr std::int64_t kFreeRows = 256;
  Dispatch out;
  for (std::int64_t e = 0; e < expert_count;) {
    std::int64_t used = 0, widest = 0, end = e;
    for (; end < expert_count; ++end) {
      const std::int64_t total = used + counts[end], rows = std::max(widest, counts[end]);
      if (end > e && rows * (end + 1 - e) > 2 * total + kFreeRows) break;
      used = total, widest = rows;
    }
    if (widest > 0) out.segments.push_back({e, end - e, widest, out.rows});
    for (std::int64_t i = e; i < end; ++i) start[i] = out.rows + (i - e) * widest;
    out.rows += widest * (end - e);
    e = end;
  }
  std::vector<std::int64_t> position(host.numel());
  for (std::int64_t i = 0; i < host.numel(); ++i) position[i] = start[chosen[i]]++;
  out.position = index_tensor(position, experts.device());
  return out;
}

at::Tensor rows_of(const at::Tensor& x, const Segment& s) {
  return x.slice(0, s.offset, s.offset + s.count * s.rows).view({s.count, s.rows, x.size(1)});
}

// Rows of x [T, D], once per slot, at their positions; padding rows are zero.
at::Tensor scatter_rows(const at::Tensor& pairs, const Dispatch& dispatch) {
  at::Tensor out = at::zeros({dispatch.rows, pairs.size(1)}, pairs.options());
  return out.index_copy_(0, dispatch.position, pairs);
}

}  // namespace

Routing route(const at::Tensor& logits, std::int64_t k) {
  at::Tensor p, sum, weights, experts;
  {
    const BelowAutograd guard;
    p = at::_softmax(logits, 1, /*half_to_float=*/false);
    const auto [values, index] = p.topk(k, 1);
    sum = values.sum(1, true);
    weights = values / sum;
    experts = index;
  }
  const at::Tensor w = shared_view(weights);
  attach("route", {logits}, {weights}, [p, sum, w, experts](const Tensors& grads) {
    const at::Tensor dot = (grads[0] * w).sum(1, true);
    const at::Tensor dp = at::zeros_like(p).scatter_(1, experts, (grads[0] - dot).div_(sum));
    return Tensors{at::_softmax_backward_data(dp, p, 1, p.scalar_type())};
  });
  return {weights, experts};
}

at::Tensor combine(const at::Tensor& pairs_in, const at::Tensor& weights_in) {
  const at::Tensor weights = weights_in.detach().unsqueeze(2);  // [T, k, 1]
  const at::Tensor pairs = pairs_in.detach().view({weights.size(0), weights.size(1), pairs_in.size(1)});
  at::Tensor y;
  {
    const BelowAutograd guard;
    y = at::zeros({pairs.size(0), pairs.size(2)}, pairs.options());
    for (std::int64_t slot = 0; slot < pairs.size(1); ++slot)
      y.addcmul_(pairs.select(1, slot), weights.select(1, slot));
  }
  return attach("combine", {pairs_in, weights_in}, {y}, [pairs, weights](const Tensors& grads) {
    const at::Tensor dy = grads[0].unsqueeze(1);  // [T, 1, D]
    return Tensors{(dy * weights).view({-1, pairs.size(2)}), (dy * pairs).sum(2)};
  })[0];
}

at::Tensor experts_ffn(const at::Tensor& x, const Routing& routing, const at::Tensor& gate_up,
                       const at::Tensor& down) {
  const std::int64_t tokens = x.size(0), k = routing.experts.size(1), width = gate_up.size(1) / 2,
                     d = x.size(1);
  const at::Tensor weights = routing.weights;
  Dispatch dispatch;
  at::Tensor rows, hidden, activated, pairs,
      y;  // rows [R, D], hidden [R, 2F], activated [R, F], pairs [T, k, D]
  {
    const BelowAutograd guard;
    dispatch = dispatch_of(routing.experts, gate_up.size(0));
    rows = scatter_rows(x.unsqueeze(1).expand({tokens, k, d}).reshape({tokens * k, d}), dispatch);
    hidden = at::empty({dispatch.rows, 2 * width}, x.options());
    at::Tensor out = at::empty({dispatch.rows, d}, x.options());
    for (const auto& s : dispatch.segments) {
      at::Tensor h = rows_of(hidden, s);
      at::bmm_out(h, rows_of(rows, s), gate_up.slice(0, s.first, s.first + s.count).transpose(1, 2));
    }
    activated = at::silu(hidden.slice(1, 0, width)).mul_(hidden.slice(1, width));
    for (const auto& s : dispatch.segments) {
      at::Tensor o = rows_of(out, s);
      at::bmm_out(o, rows_of(activated, s), down.slice(0, s.first, s.first + s.count).transpose(1, 2));
    }
    pairs = out.index_select(0, dispatch.position).view({tokens, k, d});
    y = (pairs * weights.unsqueeze(2)).sum(1);
  }
  return attach("experts_ffn", {x, weights, gate_up, down}, {y}, [=](const Tensors& grads) {
    const at::Tensor dy = grads[0].unsqueeze(1);  // [T, 1, D]
    const at::Tensor dweights = (pairs * dy).sum(2);
    const at::Tensor dout = scatter_rows((weights.unsqueeze(2) * dy).view({tokens * k, d}), dispatch);
    at::Tensor dactivated = at::empty_like(activated), dhidden = at::empty_like(hidden),
               drows = at::empty_like(rows);
    at::Tensor dgate_up = at::zeros_like(gate_up), ddown = at::zeros_like(down);
    const auto of = [](const at::Tensor& w, const Segment& s) {
      return w.slice(0, s.first, s.first + s.count);
    };
    for (const auto& s : dispatch.segments) {
      at::Tensor da = rows_of(dactivated, s), dw = of(ddown, s);
      at::bmm_out(da, rows_of(dout, s), of(down, s));
      at::bmm_out(dw, rows_of(dout, s).transpose(1, 2), rows_of(activated, s));
    }
    const at::Tensor gate = hidden.slice(1, 0, width), up = hidden.slice(1, width);
    dhidden.slice(1, 0, width).copy_(at::silu_backward(dactivated * up, gate));
    at::Tensor dup = dhidden.slice(1, width);
    at::mul_out(dup, dactivated, at::silu(gate));
    for (const auto& s : dispatch.segments) {
      at::Tensor dr = rows_of(drows, s), dw = of(dgate_up, s);
      at::bmm_out(dr, rows_of(dhidden, s), of(gate_up, s));
      at::bmm_out(dw, rows_of(dhidden, s).transpose(1, 2), rows_of(rows, s));
    }
    const at::Tensor dx = drows.index_select(0, dispatch.position).view({tokens, k, d}).sum(1);
    return Tensors{dx, dweights, dgate_up, ddown};
  })[0];
}

}  // namespace meshparity::impl

// Router and experts of cpu_primitives.h: rows are brought into the order of their experts and each expert's
// rows multiplied with its weights; no padding, no loop over tokens but to move rows.
#include <numeric>

#include "impl/blocks/cpu_primitives.h"
#include "impl/blocks/cpu_products.h"
#include "impl/blocks/cpu_tensors.h"

namespace meshparity::impl::cpu {
namespace {

// Pairs (token, slot), numbered token * k + slot, in the order of their experts.
struct Order {
  std::vector<std::int64_t> start;  // [E + 1] first row of each expert
  std::vector<std::int64_t> row;    // [T*k] row of each pair
};

Order order_of(const at::Tensor& experts, std::int64_t expert_count) {
  const auto* chosen = experts.const_data_ptr<std::int64_t>();
  Order order;
  order.start.assign(expert_count + 1, 0);
  for (std::int64_t i = 0; i < experts.numel(); ++i) ++order.start[chosen[i] + 1];
  std::partial_sum(order.start.begin(), order.start.end(), order.start.begin());
  std::vector<std::int64_t> next(order.start);
  for (std::int64_t i = 0; i < experts.numel(); ++i) order.row.push_back(next[chosen[i]]++);
  return order;
}

// c rows [begin, end) (+)= a rows [begin, end) times one expert's matrix b [n, k] or, transposed, [k, n].
template <class T>
void rows_product(const at::Tensor& c, const at::Tensor& a, const at::Tensor& b, std::int64_t expert, Op op_b,
                  std::int64_t begin, std::int64_t end) {
  const std::int64_t n = c.size(1), k = a.size(1);
  product<T>({c.mutable_data_ptr<T>() + begin * n, n}, false, {a.const_data_ptr<T>() + begin * k, k},
             Op::plain, {b.const_data_ptr<T>() + expert * b.stride(0), b.stride(1)}, op_b, end - begin, n, k);
}

// One expert's gradient d [m, n] = a^T b over rows [begin, end).
template <class T>
void gradient_product(const at::Tensor& d, std::int64_t expert, const at::Tensor& a, const at::Tensor& b,
                      std::int64_t begin, std::int64_t end) {
  const std::int64_t m = a.size(1), n = b.size(1);
  product<T>({d.mutable_data_ptr<T>() + expert * m * n, n}, false, {a.const_data_ptr<T>() + begin * m, m},
             Op::transposed, {b.const_data_ptr<T>() + begin * n, n}, Op::plain, m, n, end - begin);
}

}  // namespace

Routing route(const at::Tensor& logits_in, std::int64_t k) {
  if (!fusable({logits_in})) return impl::route(logits_in, k);
  at::Tensor p, weights, experts;
  {
    const BelowAutograd guard;
    const at::Tensor logits = dense_rows(logits_in);
    p = empty_rows(logits), weights = at::empty({logits.size(0), k}, logits.options());
    experts = at::empty({logits.size(0), k}, logits.options().dtype(at::kLong));
    with_type(p, [&]<class T>(T) {
      route_forward<T>(in<T>(logits), k, out<T>(p), out<T>(weights),
                       experts.mutable_data_ptr<std::int64_t>());
    });
  }
  const at::Tensor kept = shared_view(weights);
  attach("route", {logits_in}, {weights}, [p, kept, experts](const Tensors& grads) {
    const at::Tensor dweights = dense_rows(grads[0]), dlogits = empty_rows(p);
    with_type(p, [&]<class T>(T) {
      route_backward<T>(in<T>(dweights), in<T>(kept), in<T>(p), experts.const_data_ptr<std::int64_t>(),
                        out<T>(dlogits));
    });
    return Tensors{dlogits};
  });
  return {weights, experts};
}

at::Tensor experts_ffn(const at::Tensor& x_in, const Routing& routing, const at::Tensor& gate_up_in,
                       const at::Tensor& down_in) {
  if (!fusable({x_in, routing.weights, gate_up_in, down_in}))
    return impl::experts_ffn(x_in, routing, gate_up_in, down_in);
  const std::int64_t tokens = x_in.size(0), d = x_in.size(1), k = routing.experts.size(1),
                     count = gate_up_in.size(0);
  const std::int64_t width = gate_up_in.size(1) / 2, pairs = tokens * k;
  at::Tensor gate_up, down, weights, rows, hidden, activated, result, y;
  Order order;
  {
    const BelowAutograd guard;
    gate_up = gate_up_in.contiguous(), down = down_in.contiguous(), weights = dense_rows(routing.weights);
    order = order_of(routing.experts.contiguous(), count);
    const at::Tensor x = dense_rows(x_in);
    const auto options = x.options();
    rows = at::empty({pairs, d}, options), hidden = at::empty({pairs, 2 * width}, options);
    activated = at::empty({pairs, width}, options), result = at::empty({pairs, d}, options),
    y = at::zeros({tokens, d}, options);
    with_type(x, [&]<class T>(T) {
      for (std::int64_t i = 0; i < pairs; ++i)
        std::copy_n(in<T>(x).row(i / k), d, out<T>(rows).row(order.row[i]));
      for (std::int64_t e = 0; e < count; ++e)
        rows_product<T>(hidden, rows, gate_up, e, Op::transposed, order.start[e], order.start[e + 1]);
      const In<T> h = in<T>(hidden);
      swiglu_forward<T>({h.data, pairs, width, h.stride}, {h.data + width, pairs, width, h.stride},
                        out<T>(activated));
      for (std::int64_t e = 0; e < count; ++e)
        rows_product<T>(result, activated, down, e, Op::transposed, order.start[e], order.start[e + 1]);
      // Slot by slot: the order of the sum does not depend on which experts were chosen.
      for (std::int64_t i = 0; i < pairs; ++i)
        axpy(out<T>(y).row(i / k), in<T>(weights).row(i / k)[i % k], in<T>(result).row(order.row[i]), d);
    });
  }
  return attach("experts_ffn", {x_in, routing.weights, gate_up_in, down_in}, {y}, [=](const Tensors& grads) {
    const at::Tensor dy = dense_rows(grads[0]);
    const at::Tensor dweights = empty_rows(weights), dresult = empty_rows(result),
                     dactivated = empty_rows(activated);
    const at::Tensor dhidden = empty_rows(hidden), drows = empty_rows(rows),
                     dx = at::zeros({tokens, d}, dy.options());
    const at::Tensor dgate_up = at::empty_like(gate_up), ddown = at::empty_like(down);
    with_type(dy, [&]<class T>(T) {
      for (std::int64_t i = 0; i < pairs; ++i) {
        const T *g = in<T>(dy).row(i / k), w = in<T>(weights).row(i / k)[i % k];
        T* row = out<T>(dresult).row(order.row[i]);
        for (std::int64_t j = 0; j < d; ++j) row[j] = w * g[j];
        out<T>(dweights).row(i / k)[i % k] = dot(g, in<T>(result).row(order.row[i]), d);
      }
      // An idle expert has no rows: its products are empty sums, exactly zero.
      for (std::int64_t e = 0; e < count; ++e) {
        rows_product<T>(dactivated, dresult, down, e, Op::plain, order.start[e], order.start[e + 1]);
        gradient_product<T>(ddown, e, dresult, activated, order.start[e], order.start[e + 1]);
      }
      const In<T> h = in<T>(hidden);
      const Rows<T> dh = out<T>(dhidden);
      swiglu_backward<T>(in<T>(dactivated), {h.data, pairs, width, h.stride},
                         {h.data + width, pairs, width, h.stride}, {dh.data, pairs, width, dh.stride},
                         {dh.data + width, pairs, width, dh.stride});
      for (std::int64_t e = 0; e < count; ++e) {
        rows_product<T>(drows, dhidden, gate_up, e, Op::plain, order.start[e], order.start[e + 1]);
        gradient_product<T>(dgate_up, e, dhidden, rows, order.start[e], order.start[e + 1]);
      }
      for (std::int64_t i = 0; i < pairs; ++i)
        axpy(out<T>(dx).row(i / k), T(1), in<T>(drows).row(order.row[i]), d);
    });
    return Tensors{dx, dweights, dgate_up, ddown};
  })[0];
}

}  // namespace meshparity::impl::cpu

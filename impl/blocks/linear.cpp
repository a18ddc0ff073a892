#include "impl/blocks/linear.h"

namespace meshparity::impl {

namespace {

// The weights one below the other: without copying where they lie so in memory, as the parameters of a unit
// do.
at::Tensor stacked(const Tensors& weights) {
  if (weights.size() == 1) return weights[0];
  const std::int64_t columns = weights[0].size(1);
  std::int64_t rows = 0;
  bool adjacent = true;
  for (const auto& w : weights) {
    adjacent = adjacent && w.is_contiguous() && w.is_alias_of(weights[0]) &&
               w.storage_offset() == weights[0].storage_offset() + rows * columns;
    rows += w.size(0);
  }
  return adjacent ? weights[0].as_strided({rows, columns}, {columns, 1}) : at::cat(weights);
}

}  // namespace

Tensors linear(const at::Tensor& x, const Tensors& weights) {
  at::Tensor weight;
  Tensors outputs;
  std::vector<std::int64_t> widths;
  {
    const BelowAutograd guard;
    weight = stacked(weights);
    for (const auto& w : weights) widths.push_back(w.size(0));
    const at::Tensor y = at::mm(x, weight.t());
    outputs = weights.size() == 1 ? Tensors{y} : y.split_with_sizes(widths, 1);
  }
  Tensors inputs{x};
  inputs.insert(inputs.end(), weights.begin(), weights.end());
  return attach("linear", inputs, std::move(outputs), [x, weight, widths](const Tensors& grads) {
    const at::Tensor dy = grads.size() == 1 ? grads[0] : at::cat(grads, 1);
    Tensors result{at::mm(dy, weight)};
    const at::Tensor dw = at::mm(dy.t(), x);
    if (grads.size() == 1) {
      result.push_back(dw);
    } else {
      for (auto& part : dw.split_with_sizes(widths, 0)) result.push_back(std::move(part));
    }
    return result;
  });
}

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  at::Tensor activated, y;
  {
    const BelowAutograd guard;
    activated = at::silu(gate);
    y = activated * up;
  }
  return attach("swiglu", {gate, up}, {y}, [gate, up, activated](const Tensors& grads) {
    return Tensors{at::silu_backward(grads[0] * up, gate), grads[0] * activated};
  })[0];
}

at::Tensor sigmoid_gate(const at::Tensor& value, const at::Tensor& gate) {
  at::Tensor s, y;
  {
    const BelowAutograd guard;
    s = at::sigmoid(gate);
    y = value * s;
  }
  return attach("sigmoid_gate", {value, gate}, {y}, [value, s](const Tensors& grads) {
    at::Tensor ds = grads[0] * value;
    if (s.size(1) != value.size(1)) ds = ds.sum(1, /*keepdim=*/true);
    return Tensors{grads[0] * s, at::sigmoid_backward(ds, s)};
  })[0];
}

}  // namespace meshparity::impl

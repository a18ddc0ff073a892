// Hand-written backwards as closures: a function computes its outputs below autograd (no graph, no view
// tracking), then attaches one graph node whose backward is a lambda over what the lambda captured. A node
// costs about 2 us, where a chain of recorded ATen calls costs that per call.
//
// To add a differentiable function: compute in a block that holds a `BelowAutograd`, then return
// `attach({inputs}, {outputs}, [captures](const Tensors& grads) -> Tensors {...})`. A backward returns one
// gradient per input (undefined = none). Never capture an output itself: output -> node -> capture -> output
// would never be freed; capture `shared_view(output)`.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace meshparity::impl {

using Tensors = std::vector<at::Tensor>;
using BelowAutograd = at::AutoDispatchBelowADInplaceOrView;

class ClosureNode : public torch::autograd::Node {
 public:
  using Backward = std::function<Tensors(const Tensors&)>;
  ClosureNode(const char* name, Backward backward) : name_(name), backward_(std::move(backward)) {}

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    TORCH_CHECK(backward_, name_, ": backward ran twice");
    // An output nobody used has an undefined gradient; every rank must still run the same collectives.
    for (std::size_t i = 0; i < grads.size(); ++i)
      if (!grads[i].defined()) grads[i] = input_metadata(i).zeros_like();
    const BelowAutograd guard;
    return backward_(grads);
  }
  void release_variables() override { backward_ = nullptr; }
  std::string name() const override { return name_; }

 private:
  const char* name_;
  Backward backward_;
};

// Does anything that depends on these tensors need a gradient?
inline bool needs_grad(const Tensors& inputs) {
  if (!at::GradMode::is_enabled()) return false;
  for (const auto& t : inputs)
    if (t.defined() && t.requires_grad()) return true;
  return false;
}

// Makes `outputs` differentiable functions of `inputs`. `outputs` must be fresh tensors (no input may be
// among them). `backward` gets one defined gradient per output and returns one per input.
inline Tensors attach(const char* name, const Tensors& inputs, Tensors outputs,
                      ClosureNode::Backward backward) {
  if (!needs_grad(inputs)) return outputs;
  const std::shared_ptr<ClosureNode> node(new ClosureNode(name, std::move(backward)),
                                          torch::autograd::deleteNode);
  torch::autograd::edge_list edges;
  edges.reserve(inputs.size());
  for (const auto& t : inputs)
    edges.push_back(t.defined() ? torch::autograd::impl::gradient_edge(t) : torch::autograd::Edge());
  node->set_next_edges(std::move(edges));
  for (const auto& out : outputs) torch::autograd::set_history(out, node);
  return outputs;
}

// The same storage as a tensor of its own, for captures of outputs.
inline at::Tensor shared_view(const at::Tensor& t) {
  return t.view(t.sizes());
}

}  // namespace meshparity::impl

#include "reference/blocks/delta_rule.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <functional>
#include <future>
#include <vector>

#include "harness/types/cut.h"

namespace meshparity::reference {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

constexpr std::int64_t kTokensPerKeptState = 64;

// Batched over heads: a b^T, M b and M^T a.
at::Tensor outer_product(const at::Tensor& a_hk, const at::Tensor& b_hv) {
  return a_hk.unsqueeze(2) * b_hv.unsqueeze(1);
}
at::Tensor times(const at::Tensor& m_hkv, const at::Tensor& b_hv) {
  return (m_hkv * b_hv.unsqueeze(1)).sum(2);
}
at::Tensor transposed_times(const at::Tensor& m_hkv, const at::Tensor& a_hk) {
  return (m_hkv * a_hk.unsqueeze(2)).sum(1);
}

at::Tensor heads_of(const at::Tensor& x_th, Range heads) {
  return x_th.narrow(1, heads.begin, heads.size());
}

struct Inputs {
  at::Tensor q, k, v, g, beta;  // dimension 1: heads
  Inputs of(Range heads) const {
    return {heads_of(q, heads), heads_of(k, heads), heads_of(v, heads), heads_of(g, heads),
            heads_of(beta, heads)};
  }
  std::int64_t groups() const;
};

// The inputs, token by token; alpha and beta as [T][H, 1], so that they scale a head's vector.
struct Tokens {
  std::vector<at::Tensor> q, k, v, alpha, beta;
  explicit Tokens(const Inputs& in)
      : q(in.q.unbind(0)),
        k(in.k.unbind(0)),
        v(in.v.unbind(0)),
        alpha(in.g.exp().unsqueeze(2).unbind(0)),
        beta(in.beta.unsqueeze(2).unbind(0)) {}
};

struct Step {
  at::Tensor residual;  // r_t [H, V]
  at::Tensor state;     // S_t [H, K, V]
};

Step step(const Tokens& x, std::int64_t t, const at::Tensor& before) {
  const at::Tensor decayed = x.alpha[t].unsqueeze(2) * before;
  const at::Tensor residual = x.v[t] - transposed_times(decayed, x.k[t]);
  return {residual, decayed + outer_product(x.k[t], x.beta[t] * residual)};
}

// Heads do not see each other. So many are computed at once that an operation on their states is worth its
// call, and fewer than LibTorch would split over threads of its own: the groups are what the cores share.
constexpr std::int64_t kStateElementsAtOnce = 32767;

std::int64_t Inputs::groups() const {
  const std::int64_t heads = q.size(1), state_elements = q.size(2) * v.size(2);
  const std::int64_t at_once = std::max<std::int64_t>(1, kStateElementsAtOnce / state_elements);
  return (heads + at_once - 1) / at_once;
}

void for_each_group(const Inputs& in, const std::function<void(std::int64_t group, Range heads)>& work) {
  const std::int64_t groups = in.groups(), heads = in.q.size(1);
  const std::int64_t workers = std::clamp<std::int64_t>(at::get_num_threads(), 1, groups);
  const auto run = [&](std::int64_t worker) {
    const at::NoGradGuard guard;  // of this thread
    for (std::int64_t i = worker; i < groups; i += workers) work(i, cut(heads, groups, i));
  };
  std::vector<std::future<void>> others;
  for (std::int64_t worker = 1; worker < workers; ++worker)
    others.push_back(std::async(std::launch::async, run, worker));
  run(0);
  for (auto& other : others) other.get();
}

struct Output {
  at::Tensor o;     // [T, H, V]
  at::Tensor kept;  // [parts, H, K, V] the state before every kTokensPerKeptState-th token
};

Output scan(const Inputs& in) {
  const Tokens x(in);
  at::Tensor state = at::zeros({in.q.size(1), in.q.size(2), in.v.size(2)}, in.q.options());
  std::vector<at::Tensor> kept, output;
  for (std::int64_t t = 0; t < in.q.size(0); ++t) {
    if (t % kTokensPerKeptState == 0) kept.push_back(state);
    state = step(x, t, state).state;
    output.push_back(transposed_times(state, x.q[t]));
  }
  return {at::stack(output), at::stack(kept)};
}

// Gradients of q, k, v, g and beta.
variable_list scan_backward(const Inputs& in, const at::Tensor& kept, const at::Tensor& grad_output) {
  const Tokens x(in);
  const std::vector<at::Tensor> grad_o = grad_output.unbind(0);
  const std::int64_t tokens = static_cast<std::int64_t>(grad_o.size());
  std::vector<at::Tensor> grad_q(tokens), grad_k(tokens), grad_v(tokens), grad_g(tokens), grad_beta(tokens);

  at::Tensor grad_state = at::zeros_like(kept[0]);  // dL/dS_t, then dL/dS_(t-1)
  for (std::int64_t part = kept.size(0) - 1; part >= 0; --part) {
    const std::int64_t begin = part * kTokensPerKeptState;
    const std::int64_t end = std::min(begin + kTokensPerKeptState, tokens);
    std::vector<at::Tensor> state = {kept[part]};  // state[i] = S before token begin + i
    std::vector<at::Tensor> residual;
    for (std::int64_t t = begin; t < end; ++t) {
      const Step now = step(x, t, state.back());
      state.push_back(now.state);
      residual.push_back(now.residual);
    }
    for (std::int64_t t = end - 1; t >= begin; --t) {
      const at::Tensor &before = state[t - begin], &after = state[t - begin + 1], &r = residual[t - begin];
      const at::Tensor &alpha = x.alpha[t], &beta = x.beta[t], &k = x.k[t];
      grad_state = grad_state + outer_product(x.q[t], grad_o[t]);
      const at::Tensor grad_update = transposed_times(grad_state, k);  // of beta r
      grad_q[t] = times(after, grad_o[t]);
      grad_v[t] = beta * grad_update;
      grad_beta[t] = (grad_update * r).sum(1);
      grad_k[t] = times(grad_state, beta * r) - alpha * times(before, grad_v[t]);
      grad_state = alpha.unsqueeze(2) * (grad_state - outer_product(k, grad_v[t]));
      grad_g[t] = (before * grad_state).sum({1, 2});
    }
  }
  return {at::stack(grad_q), at::stack(grad_k), at::stack(grad_v), at::stack(grad_g), at::stack(grad_beta)};
}

class GatedDeltaRule : public torch::autograd::Function<GatedDeltaRule> {
 public:
  static Variable forward(AutogradContext* context, const Variable& q, const Variable& k, const Variable& v,
                          const Variable& g, const Variable& beta) {
    const Inputs in = {q, k, v, g, beta};
    std::vector<at::Tensor> outputs(in.groups()), kept(in.groups());
    for_each_group(in, [&](std::int64_t group, Range heads) {
      Output out = scan(in.of(heads));
      outputs[group] = out.o, kept[group] = out.kept;
    });
    context->save_for_backward({q, k, v, g, beta, at::cat(kept, 1)});
    return at::cat(outputs, 1);
  }

  static variable_list backward(AutogradContext* context, variable_list grad_outputs) {
    const variable_list saved = context->get_saved_variables();
    const Inputs in = {saved[0], saved[1], saved[2], saved[3], saved[4]};
    std::vector<variable_list> parts(in.groups());
    for_each_group(in, [&](std::int64_t group, Range heads) {
      parts[group] = scan_backward(in.of(heads), heads_of(saved[5], heads), heads_of(grad_outputs[0], heads));
    });
    variable_list gradients;
    for (std::size_t input = 0; input < parts[0].size(); ++input) {
      std::vector<at::Tensor> of_groups;
      for (const variable_list& part : parts) of_groups.push_back(part[input]);
      gradients.push_back(at::cat(of_groups, 1));
    }
    return gradients;
  }
};

}  // namespace

at::Tensor gated_delta_rule(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& g, const at::Tensor& beta) {
  return GatedDeltaRule::apply(q, k, v, g, beta);
}

}  // namespace meshparity::reference

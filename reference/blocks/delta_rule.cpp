#include "reference/blocks/delta_rule.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

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

// The inputs, token by token; alpha and beta as [T][H, 1], so that they scale a head's vector.
struct Tokens {
  std::vector<at::Tensor> q, k, v, alpha, beta;
  Tokens(const at::Tensor& q_thk, const at::Tensor& k_thk, const at::Tensor& v_thv, const at::Tensor& g_th,
         const at::Tensor& beta_th)
      : q(q_thk.unbind(0)),
        k(k_thk.unbind(0)),
        v(v_thv.unbind(0)),
        alpha(g_th.exp().unsqueeze(2).unbind(0)),
        beta(beta_th.unsqueeze(2).unbind(0)) {}
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

class GatedDeltaRule : public torch::autograd::Function<GatedDeltaRule> {
 public:
  static Variable forward(AutogradContext* context, const Variable& q, const Variable& k, const Variable& v,
                          const Variable& g, const Variable& beta) {
    const std::int64_t tokens = q.size(0);
    const Tokens x(q, k, v, g, beta);
    at::Tensor state = at::zeros({q.size(1), q.size(2), v.size(2)}, q.options());
    std::vector<at::Tensor> kept, output;
    for (std::int64_t t = 0; t < tokens; ++t) {
      if (t % kTokensPerKeptState == 0) kept.push_back(state);
      state = step(x, t, state).state;
      output.push_back(transposed_times(state, x.q[t]));
    }
    context->save_for_backward({q, k, v, g, beta, at::stack(kept)});
    return at::stack(output);
  }

  static variable_list backward(AutogradContext* context, variable_list grad_outputs) {
    const variable_list saved = context->get_saved_variables();
    const Tokens x(saved[0], saved[1], saved[2], saved[3], saved[4]);
    const at::Tensor kept = saved[5];
    const std::vector<at::Tensor> grad_o = grad_outputs[0].unbind(0);
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
};

}  // namespace

at::Tensor gated_delta_rule(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& g, const at::Tensor& beta) {
  return GatedDeltaRule::apply(q, k, v, g, beta);
}

}  // namespace meshparity::reference

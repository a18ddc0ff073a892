#include "impl/blocks/cpu_primitives.h"

#include "impl/blocks/conv.h"
#include "impl/blocks/cpu_delta_rule.h"
#include "impl/blocks/cpu_tensors.h"
#include "impl/blocks/delta_rule.h"
#include "impl/blocks/linear.h"
#include "impl/blocks/rms_norm.h"
#include "impl/blocks/rope.h"

namespace meshparity::impl::cpu {
namespace {

constexpr double kL2Epsilon = 1e-6;

// One statistic per normalised group.
at::Tensor statistics(const at::Tensor& x, std::int64_t width) {
  return at::empty({x.size(0) * (x.size(1) / width)}, x.options());
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x_in, const at::Tensor& weight, double eps) {
  if (!fusable({x_in, weight})) return impl::rms_norm(x_in, weight, eps);
  at::Tensor x, w, y, rho;
  {
    const BelowAutograd guard;
    x = dense_rows(x_in), w = weight.contiguous(), y = empty_rows(x), rho = statistics(x, w.size(0));
    with_type(x, [&]<class T>(T) {
      rms_norm_forward<T>(in<T>(x), w.const_data_ptr<T>(), w.size(0), eps, out<T>(y),
                          rho.mutable_data_ptr<T>());
    });
  }
  return attach("rms_norm", {x_in, weight}, {y}, [x, w, rho](const Tensors& grads) {
    const at::Tensor dy = dense_rows(grads[0]), dx = empty_rows(dy), dw = at::empty_like(w);
    with_type(x, [&]<class T>(T) {
      rms_norm_backward<T>(in<T>(dy), in<T>(x), w.const_data_ptr<T>(), w.size(0), rho.const_data_ptr<T>(),
                           out<T>(dx), dw.mutable_data_ptr<T>());
    });
    return Tensors{dx, dw};
  })[0];
}

at::Tensor gated_rms_norm(const at::Tensor& x_in, const at::Tensor& weight, const at::Tensor& z_in,
                          double eps) {
  if (!fusable({x_in, weight, z_in})) return impl::gated_rms_norm(x_in, weight, z_in, eps);
  at::Tensor x, w, z, y, rho;
  {
    const BelowAutograd guard;
    x = dense_rows(x_in), z = dense_rows(z_in), w = weight.contiguous(), y = empty_rows(x);
    rho = statistics(x, w.size(0));
    with_type(x, [&]<class T>(T) {
      gated_rms_norm_forward<T>(in<T>(x), w.const_data_ptr<T>(), in<T>(z), w.size(0), eps, out<T>(y),
                                rho.mutable_data_ptr<T>());
    });
  }
  return attach("gated_rms_norm", {x_in, weight, z_in}, {y}, [x, w, z, rho](const Tensors& grads) {
    const at::Tensor dy = dense_rows(grads[0]), dx = empty_rows(dy), dz = empty_rows(dy),
                     dw = at::empty_like(w);
    with_type(x, [&]<class T>(T) {
      gated_rms_norm_backward<T>(in<T>(dy), in<T>(x), w.const_data_ptr<T>(), in<T>(z), w.size(0),
                                 rho.const_data_ptr<T>(), out<T>(dx), dw.mutable_data_ptr<T>(), out<T>(dz));
    });
    return Tensors{dx, dw, dz};
  })[0];
}

at::Tensor l2norm(const at::Tensor& x_in, std::int64_t width) {
  if (!fusable({x_in})) return impl::l2norm(x_in, width);
  at::Tensor y, rho;
  {
    const BelowAutograd guard;
    const at::Tensor x = dense_rows(x_in);
    y = empty_rows(x), rho = statistics(x, width);
    with_type(x, [&]<class T>(T) {
      l2norm_forward<T>(in<T>(x), width, kL2Epsilon, out<T>(y), rho.mutable_data_ptr<T>());
    });
  }
  const at::Tensor unit = shared_view(y);
  return attach("l2norm", {x_in}, {y}, [unit, rho, width](const Tensors& grads) {
    const at::Tensor dy = dense_rows(grads[0]), dx = empty_rows(dy);
    with_type(dy, [&]<class T>(T) {
      l2norm_backward<T>(in<T>(dy), in<T>(unit), width, rho.const_data_ptr<T>(), out<T>(dx));
    });
    return Tensors{dx};
  })[0];
}

at::Tensor swiglu(const at::Tensor& gate_in, const at::Tensor& up_in) {
  if (!fusable({gate_in, up_in})) return impl::swiglu(gate_in, up_in);
  at::Tensor gate, up, y;
  {
    const BelowAutograd guard;
    gate = dense_rows(gate_in), up = dense_rows(up_in), y = empty_rows(gate);
    with_type(gate, [&]<class T>(T) { swiglu_forward<T>(in<T>(gate), in<T>(up), out<T>(y)); });
  }
  return attach("swiglu", {gate_in, up_in}, {y}, [gate, up](const Tensors& grads) {
    const at::Tensor dy = dense_rows(grads[0]), dgate = empty_rows(dy), dup = empty_rows(dy);
    with_type(dy, [&]<class T>(T) {
      swiglu_backward<T>(in<T>(dy), in<T>(gate), in<T>(up), out<T>(dgate), out<T>(dup));
    });
    return Tensors{dgate, dup};
  })[0];
}

at::Tensor sigmoid_gate(const at::Tensor& value_in, const at::Tensor& gate_in) {
  if (!fusable({value_in, gate_in})) return impl::sigmoid_gate(value_in, gate_in);
  at::Tensor value, gate, y;
  {
    const BelowAutograd guard;
    value = dense_rows(value_in), gate = dense_rows(gate_in), y = empty_rows(value);
    with_type(value, [&]<class T>(T) { sigmoid_gate_forward<T>(in<T>(value), in<T>(gate), out<T>(y)); });
  }
  return attach("sigmoid_gate", {value_in, gate_in}, {y}, [value, gate](const Tensors& grads) {
    const at::Tensor dy = dense_rows(grads[0]), dvalue = empty_rows(value), dgate = empty_rows(gate);
    with_type(dy, [&]<class T>(T) {
      sigmoid_gate_backward<T>(in<T>(dy), in<T>(value), in<T>(gate), out<T>(dvalue), out<T>(dgate));
    });
    return Tensors{dvalue, dgate};
  })[0];
}

at::Tensor rope(const at::Tensor& x_in, const PackedTokens& tokens) {
  if (!fusable({x_in, tokens.rope_cos})) return impl::rope(x_in, tokens);
  const at::Tensor cos = tokens.rope_cos, sin = tokens.rope_sin, partner = tokens.rope_partner;
  const auto turned = [cos, sin, partner](const at::Tensor& x, int sign) {
    const at::Tensor y = empty_rows(x);
    with_type(x, [&]<class T>(T) {
      rotate<T>(in<T>(x), cos.const_data_ptr<T>(), sin.const_data_ptr<T>(),
                partner.const_data_ptr<std::int64_t>(), partner.size(0), T(sign), out<T>(y));
    });
    return y;
  };
  at::Tensor y;
  {
    const BelowAutograd guard;
    y = turned(dense_rows(x_in), 1);
  }
  return attach("rope", {x_in}, {y},
                [turned](const Tensors& grads) { return Tensors{turned(dense_rows(grads[0]), -1)}; })[0];
}

Tensors short_conv(const at::Tensor& u_in, const at::Tensor& weight, const PackedTokens& tokens,
                   std::int64_t split) {
  if (!fusable({u_in, weight})) return impl::short_conv(u_in, weight, tokens, split);
  const at::Tensor sources = tokens.conv_sources;
  at::Tensor u, w, sum;
  Tensors parts;
  {
    const BelowAutograd guard;
    u = dense_rows(u_in), w = weight.contiguous(), sum = empty_rows(u);
    const at::Tensor y = empty_rows(u);
    with_type(u, [&]<class T>(T) {
      conv_forward<T>(in<T>(u), w.const_data_ptr<T>(), sources.const_data_ptr<std::int64_t>(), w.size(2),
                      out<T>(sum), out<T>(y));
    });
    parts = y.split_with_sizes({split, u.size(1) - split}, 1);
  }
  return attach("short_conv", {u_in, weight}, std::move(parts), [u, w, sum, sources](const Tensors& grads) {
    const at::Tensor first = dense_rows(grads[0]), second = dense_rows(grads[1]);
    const at::Tensor du = at::zeros(u.sizes(), u.options()), dw = at::zeros(w.sizes(), w.options());
    with_type(u, [&]<class T>(T) {
      conv_backward<T>(in<T>(first), in<T>(second), out<T>(sum), in<T>(u), w.const_data_ptr<T>(),
                       sources.const_data_ptr<std::int64_t>(), w.size(2), out<T>(du),
                       dw.mutable_data_ptr<T>());
    });
    return Tensors{du, dw};
  });
}

Tensors delta_gates(const at::Tensor& a_in, const at::Tensor& b_in, const at::Tensor& a_log_in,
                    const at::Tensor& dt_bias_in) {
  if (!fusable({a_in, b_in, a_log_in, dt_bias_in}))
    return impl::delta_gates(a_in, b_in, a_log_in, dt_bias_in);
  at::Tensor a, a_log, dt_bias, g, beta;
  {
    const BelowAutograd guard;
    a = dense_rows(a_in), a_log = a_log_in.contiguous(), dt_bias = dt_bias_in.contiguous();
    const at::Tensor b = dense_rows(b_in);
    g = empty_rows(a), beta = empty_rows(a);
    with_type(a, [&]<class T>(T) {
      delta_gates_forward<T>(in<T>(a), in<T>(b), a_log.const_data_ptr<T>(), dt_bias.const_data_ptr<T>(),
                             out<T>(g), out<T>(beta));
    });
  }
  const at::Tensor g_kept = shared_view(g), beta_kept = shared_view(beta);
  return attach("delta_gates", {a_in, b_in, a_log_in, dt_bias_in}, {g, beta}, [=](const Tensors& grads) {
    const at::Tensor dg = dense_rows(grads[0]), dbeta = dense_rows(grads[1]), da = empty_rows(a),
                     db = empty_rows(a);
    const at::Tensor da_log = at::zeros_like(a_log), ddt_bias = at::zeros_like(dt_bias);
    with_type(a, [&]<class T>(T) {
      delta_gates_backward<T>(in<T>(dg), in<T>(dbeta), in<T>(a), in<T>(g_kept), in<T>(beta_kept),
                              a_log.const_data_ptr<T>(), dt_bias.const_data_ptr<T>(), out<T>(da), out<T>(db),
                              da_log.mutable_data_ptr<T>(), ddt_bias.mutable_data_ptr<T>());
    });
    return Tensors{da, db, da_log, ddt_bias};
  });
}

at::Tensor delta_rule(const at::Tensor& qk_in, const at::Tensor& v_in, const at::Tensor& g_in,
                      const at::Tensor& beta_in, const PackedTokens& tokens, std::int64_t key_dim) {
  if (!fusable({qk_in, v_in, g_in, beta_in}))
    return impl::delta_rule(qk_in, v_in, g_in, beta_in, tokens, key_dim);
  const std::vector<DeltaPiece> pieces = tokens.pieces;
  const std::int64_t heads = g_in.size(1);
  const DeltaSizes sizes{qk_in.size(1) / (2 * key_dim), heads, key_dim, v_in.size(1) / heads};
  at::Tensor qk, v, g, beta, delta, states, o;
  {
    const BelowAutograd guard;
    qk = dense_rows(qk_in), v = dense_rows(v_in), g = dense_rows(g_in), beta = dense_rows(beta_in);
    delta = empty_rows(v), o = empty_rows(v);
    states =
        at::empty({static_cast<std::int64_t>(pieces.size()), heads, key_dim, sizes.value_dim}, v.options());
    with_type(v, [&]<class T>(T) {
      delta_rule_forward<T>(pieces, sizes, in<T>(qk), in<T>(v), in<T>(g), in<T>(beta), out<T>(delta),
                            states.mutable_data_ptr<T>(), out<T>(o));
    });
  }
  return attach("delta_rule", {qk_in, v_in, g_in, beta_in}, {o}, [=](const Tensors& grads) {
    const at::Tensor dout = dense_rows(grads[0]), dqk = at::zeros(qk.sizes(), qk.options());
    const at::Tensor dv = empty_rows(v), dg = empty_rows(g), dbeta = empty_rows(beta);
    with_type(v, [&]<class T>(T) {
      delta_rule_backward<T>(pieces, sizes, in<T>(qk), in<T>(v), in<T>(g), in<T>(beta), in<T>(delta),
                             states.const_data_ptr<T>(), in<T>(dout), out<T>(dqk), out<T>(dv), out<T>(dg),
                             out<T>(dbeta));
    });
    return Tensors{dqk, dv, dg, dbeta};
  })[0];
}

Tensors delta_rule_from(const at::Tensor& qk_in, const at::Tensor& v_in, const at::Tensor& g_in,
                        const at::Tensor& beta_in, const at::Tensor& entering, const PackedTokens& tokens,
                        std::int64_t key_dim) {
  if (!fusable({qk_in, v_in, g_in, beta_in, entering}))
    return impl::delta_rule_from(qk_in, v_in, g_in, beta_in, entering, tokens, key_dim);
  const std::int64_t heads = g_in.size(1);
  const DeltaSizes sizes{qk_in.size(1) / (2 * key_dim), heads, key_dim, v_in.size(1) / heads};
  const at::Tensor qk = dense_rows(qk_in), v = dense_rows(v_in), g = dense_rows(g_in),
                   beta = dense_rows(beta_in), from = entering.contiguous();
  const at::Tensor delta = empty_rows(v), o = empty_rows(v), leaving = at::empty_like(from);
  const at::Tensor states = at::empty(
      {static_cast<std::int64_t>(tokens.pieces.size()), heads, key_dim, sizes.value_dim}, v.options());
  with_type(v, [&]<class T>(T) {
    delta_rule_forward<T>(tokens.pieces, sizes, in<T>(qk), in<T>(v), in<T>(g), in<T>(beta), out<T>(delta),
                          states.mutable_data_ptr<T>(), out<T>(o), from.const_data_ptr<T>(),
                          leaving.mutable_data_ptr<T>());
  });
  return {o, leaving};
}

}  // namespace meshparity::impl::cpu

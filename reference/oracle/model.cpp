#include "reference/oracle/model.h"

#include "harness/types/error.h"
#include "reference/oracle/attention.h"
#include "reference/oracle/conv.h"
#include "reference/oracle/delta_rule.h"
#include "reference/oracle/feed_forward.h"
#include "reference/oracle/norms.h"
#include "reference/oracle/rope.h"
#include "reference/oracle/router.h"
#include "reference/oracle/tower.h"

namespace meshparity::oracle {
namespace {

// Weights of one layer part by their short name: layer("q_proj.weight").
template <class Scalar>
struct Part {
  const Weights<Scalar>& weights;
  std::string prefix;
  const Matrix<Scalar>& operator()(const std::string& name) const { return weights.at(prefix + name); }
  Vector<Scalar> vector(const std::string& name) const { return (*this)(name).row(0).transpose(); }
};

template <class Scalar>
Matrix<Scalar> norm_rows(const Matrix<Scalar>& x, const Vector<Scalar>& weight, double eps) {
  Matrix<Scalar> y(x.rows(), x.cols());
  for (Eigen::Index t = 0; t < x.rows(); ++t) {
    y.row(t) = rms_norm<Scalar>(x.row(t).transpose(), weight, eps).transpose();
  }
  return y;
}

template <class Scalar>
Matrix<Scalar> attention(const ModelConfig& c, const Part<Scalar>& w, const Matrix<Scalar>& x,
                         const std::vector<Position>& positions) {
  const Eigen::Index tokens = x.rows(), d = c.head_dim;
  const Matrix<Scalar> query_and_gate = x * w("q_proj.weight").transpose();
  const Matrix<Scalar> keys = x * w("k_proj.weight").transpose(), values = x * w("v_proj.weight").transpose();
  // A head's columns, normed and turned.
  const auto prepared = [&](const auto& columns, const char* norm) {
    Matrix<Scalar> result = norm_rows<Scalar>(columns, w.vector(norm), c.rms_norm_eps);
    for (Eigen::Index t = 0; t < tokens; ++t) {
      result.row(t) = rotated<Scalar>(result.row(t).transpose(), positions[t], c.rotary_dim, c.rope_theta,
                                      c.mrope_section)
                          .transpose();
    }
    return result;
  };
  Matrix<Scalar> gated(tokens, c.num_attention_heads * d);
  for (Eigen::Index h = 0; h < c.num_attention_heads; ++h) {
    const Eigen::Index kv = h * c.num_key_value_heads / c.num_attention_heads;
    const Matrix<Scalar> q = prepared(query_and_gate.middleCols(h * 2 * d, d), "q_norm.weight");
    const Matrix<Scalar> k = prepared(keys.middleCols(kv * d, d), "k_norm.weight");
    const Matrix<Scalar> v = values.middleCols(kv * d, d);
    const Matrix<Scalar> out = causal_attention(q, k, v).out;
    for (Eigen::Index t = 0; t < tokens; ++t) {
      for (Eigen::Index i = 0; i < d; ++i) {
        gated(t, h * d + i) = out(t, i) * sigmoid(query_and_gate(t, h * 2 * d + d + i));
      }
    }
  }
  return gated * w("o_proj.weight").transpose();
}

template <class Scalar>
Matrix<Scalar> gated_delta_net(const ModelConfig& c, const Part<Scalar>& w, const Matrix<Scalar>& x) {
  const Eigen::Index tokens = x.rows(), key = c.linear_key_head_dim, value = c.linear_value_head_dim;
  const Matrix<Scalar> mixed =
      causal_conv_silu<Scalar>(x * w("in_proj_qkv.weight").transpose(), w("conv1d.weight"));
  const Matrix<Scalar> a = x * w("in_proj_a.weight").transpose(), b = x * w("in_proj_b.weight").transpose();
  const Matrix<Scalar> z = x * w("in_proj_z.weight").transpose();
  const Vector<Scalar> a_log = w.vector("A_log"), dt_bias = w.vector("dt_bias"),
                       norm = w.vector("norm.weight");
  const auto unit_rows = [&](Eigen::Index first_column, double scale) {
    Matrix<Scalar> result(tokens, key);
    for (Eigen::Index t = 0; t < tokens; ++t) {
      const Vector<Scalar> row = mixed.row(t).segment(first_column, key).transpose();
      result.row(t) = l2_norm(row).transpose() * Scalar(scale);
    }
    return result;
  };
  Matrix<Scalar> normed(tokens, c.gdn_value_width());
  for (Eigen::Index h = 0; h < c.linear_num_value_heads; ++h) {
    const Eigen::Index key_head = h * c.linear_num_key_heads / c.linear_num_value_heads;
    const Matrix<Scalar> q = unit_rows(key_head * key, 1 / std::sqrt(static_cast<double>(key)));
    const Matrix<Scalar> k = unit_rows(c.gdn_key_width() + key_head * key, 1.0);
    const Matrix<Scalar> v = mixed.middleCols(2 * c.gdn_key_width() + h * value, value);
    Vector<Scalar> g(tokens), beta(tokens);
    for (Eigen::Index t = 0; t < tokens; ++t) {
      g[t] = log_decay(a(t, h), a_log[h], dt_bias[h]);
      beta[t] = sigmoid(b(t, h));
    }
    const Matrix<Scalar> out = gated_delta_rule(q, k, v, g, beta);
    for (Eigen::Index t = 0; t < tokens; ++t) {
      const Vector<Scalar> gate = z.row(t).segment(h * value, value).transpose();
      normed.row(t).segment(h * value, value) =
          gated_rms_norm<Scalar>(out.row(t).transpose(), gate, norm, c.rms_norm_eps).transpose();
    }
  }
  return normed * w("out_proj.weight").transpose();
}

template <class Scalar>
Vector<Scalar> moe(const ModelConfig& c, const Part<Scalar>& w, const Vector<Scalar>& x) {
  const Eigen::Index width = c.moe_intermediate_size, d = c.hidden_size;
  const Route<Scalar> chosen = route<Scalar>(w("gate.weight") * x, c.num_experts_per_tok);
  const Scalar shared_gate = sigmoid<Scalar>((w("shared_expert_gate.weight") * x)[0]);
  Vector<Scalar> y = swiglu<Scalar>(x, w("shared_expert.gate_proj.weight"), w("shared_expert.up_proj.weight"),
                                    w("shared_expert.down_proj.weight")) *
                     shared_gate;
  for (std::size_t i = 0; i < chosen.experts.size(); ++i) {
    const Eigen::Index first = chosen.experts[i] * 2 * width;
    y += swiglu<Scalar>(x, w("experts.gate_up_proj").middleRows(first, width),
                        w("experts.gate_up_proj").middleRows(first + width, width),
                        w("experts.down_proj").middleRows(chosen.experts[i] * d, d)) *
         chosen.weights[static_cast<Eigen::Index>(i)];
  }
  return y;
}

template <class Scalar>
Vector<Scalar> feed_forward(const ModelConfig& c, const Part<Scalar>& w, const Vector<Scalar>& x) {
  if (c.is_moe()) return moe(c, w, x);
  return swiglu<Scalar>(x, w("gate_proj.weight"), w("up_proj.weight"), w("down_proj.weight"));
}

}  // namespace

template <class Scalar>
Weights<Scalar> plain_weights(const ModelConfig& config, const std::map<std::string, HostTensor>& weights) {
  Weights<Scalar> plain;
  for (const ParameterInfo& p : parameters_of(config)) {
    const auto found = weights.find(p.name);
    if (found == weights.end()) throw InputError(config.name, p.name, "weight is missing");
    if (found->second.shape != p.shape || !is_floating(found->second.dtype)) {
      throw InputError(config.name, p.name, "must be floating and of shape " + shape_text(p.shape));
    }
    const TensorView view = found->second.view();
    const Eigen::Index columns = p.shape.back();
    Matrix<Scalar> matrix(columns == 0 ? 0 : view.numel() / columns, columns);
    for (Eigen::Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = view.at(i);
    plain[p.name] = matrix;
  }
  return plain;
}

template <class Scalar>
Matrix<Scalar> forward(const ModelConfig& c, const Weights<Scalar>& weights,
                       const std::vector<std::int64_t>& token_ids, const std::vector<std::int64_t>& positions,
                       const Sights& sights) {
  const auto tokens = static_cast<std::int64_t>(token_ids.size());
  const Part<Scalar> model{weights, "model."};
  std::vector<Position> places(tokens);
  Matrix<Scalar> x(tokens, c.hidden_size);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t axis = 0; axis < 3; ++axis) {
      places[t][axis] = positions.empty() ? t : positions.at(axis * tokens + t);
    }
    x.row(t) = model("embed_tokens.weight").row(token_ids[t]);
  }
  const auto put = [&](const VisionInput& input, std::int64_t id) {
    if (input.empty()) return;
    const Matrix<Scalar> rows = vision_tower<Scalar>(c, weights, input);
    Eigen::Index next = 0;
    for (std::int64_t t = 0; t < tokens; ++t)
      if (token_ids[t] == id) x.row(t) = rows.row(next++);
  };
  put(sights.images, c.image_token_id);
  put(sights.videos, c.video_token_id);
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    const Part<Scalar> layer{weights, prefix}, mlp{weights, prefix + "mlp."};
    const Matrix<Scalar> before = norm_rows(x, layer.vector("input_layernorm.weight"), c.rms_norm_eps);
    x += c.full_attention[i] ? attention<Scalar>(c, {weights, prefix + "self_attn."}, before, places)
                             : gated_delta_net<Scalar>(c, {weights, prefix + "linear_attn."}, before);
    const Matrix<Scalar> between =
        norm_rows(x, layer.vector("post_attention_layernorm.weight"), c.rms_norm_eps);
    for (std::int64_t t = 0; t < tokens; ++t) {
      x.row(t) += feed_forward<Scalar>(c, mlp, between.row(t).transpose()).transpose();
    }
  }
  const std::string head = c.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  return norm_rows(x, model.vector("norm.weight"), c.rms_norm_eps) * weights.at(head).transpose();
}

Matrix<double> forward(const ModelConfig& config, const std::map<std::string, HostTensor>& weights,
                       const std::vector<std::int64_t>& token_ids, const std::vector<std::int64_t>& positions,
                       const Sights& sights) {
  return forward(config, plain_weights<double>(config, weights), token_ids, positions, sights);
}

template Weights<double> plain_weights(const ModelConfig&, const std::map<std::string, HostTensor>&);
template Weights<Dual> plain_weights(const ModelConfig&, const std::map<std::string, HostTensor>&);
template Matrix<double> forward(const ModelConfig&, const Weights<double>&, const std::vector<std::int64_t>&,
                                const std::vector<std::int64_t>&, const Sights&);
template Matrix<Dual> forward(const ModelConfig&, const Weights<Dual>&, const std::vector<std::int64_t>&,
                              const std::vector<std::int64_t>&, const Sights&);

}  // namespace meshparity::oracle

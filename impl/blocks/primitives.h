// The one table through which blocks reach the functions of the model. An entry selects the CPU, CUDA or
// fused version; a fault, a tracer or a deliberately wrong variant replaces or wraps one entry. To add a
// primitive: its file, one entry here, one line in primitives.cpp. Shapes and sources stand with the default
// of each entry, in the header named beside it.
#pragma once

#include <functional>

#include "impl/blocks/experts.h"
#include "impl/blocks/packed_tokens.h"
#include "impl/blocks/router_loss.h"
#include "impl/parallel/context_state.h"
#include "impl/parallel/expert.h"
#include "impl/parallel/partial_attention.h"

namespace meshparity::impl {

struct VisionPatches;  // vision.h
struct VisionPart;     // impl/parallel/vision.h
struct FeaturePlaces;

struct Primitives {
  using Tensor = at::Tensor;
  template <class F>
  using Entry = std::function<F>;

  // linear.h
  Entry<Tensors(const Tensor& x, const Tensors& weights)> linear;
  Entry<Tensors(const Tensor& x, const Tensors& weights)> router_linear;  // the router's weight stands first
  Entry<Tensors(const Tensor& x, const Tensors& weights)> head_linear;    // logits
  Entry<Tensor(const Tensor& x, const Tensor& y)> add;                    // on the residual stream
  Entry<Tensor(const Tensor& gate, const Tensor& up)> swiglu;
  Entry<Tensor(const Tensor& attended, const Tensor& gate)> output_gate;
  Entry<Tensor(const Tensor& shared, const Tensor& gate)> shared_expert_gate;
  // rms_norm.h
  Entry<Tensor(const Tensor& x, const Tensor& weight, double eps)> rms_norm;   // residual stream
  Entry<Tensor(const Tensor& x, const Tensor& weight, double eps)> head_norm;  // q_norm, k_norm
  Entry<Tensor(const Tensor& x, const Tensor& weight, const Tensor& z, double eps)> gated_rms_norm;
  Entry<Tensor(const Tensor& x, std::int64_t width)> l2norm;
  // attention_core.h, rope.h
  Entry<Tensors(const Tensor& query_gate, std::int64_t head_dim)> split_query_gate;
  Entry<Tensor(const Tensor& x, const PackedTokens& tokens)> rope;
  Entry<Tensor(const Tensor& q, const Tensor& k, const Tensor& v, const PackedTokens& tokens,
               std::int64_t head_dim)>
      attention;
  // context_ulysses.h: the columns that softmax attention sends to each Ulysses rank
  Entry<std::vector<std::int64_t>(std::int64_t heads, std::int64_t width, std::int64_t offset, int ranks,
                                  int index)>
      head_columns;
  // partial_attention.h: one step of ring attention
  RingKernels ring;
  // conv.h, delta_rule.h
  Entry<Tensors(const Tensor& u, const Tensor& weight, const PackedTokens& tokens, std::int64_t split)>
      short_conv;
  Entry<Tensors(const Tensor& a, const Tensor& b, const Tensor& a_log, const Tensor& dt_bias)> delta_gates;
  Entry<Tensor(const Tensor& qk, const Tensor& v, const Tensor& g, const Tensor& beta,
               const PackedTokens& tokens, std::int64_t key_dim)>
      delta_rule;
  // cached.h, delta_rule.h: what a pass of rollout does with its caches; forward only
  Entry<Tensor(const Tensor& q, const Tensor& keys, const Tensor& values, const Tensor& bias,
               std::int64_t head_dim)>
      cached_attention;
  Entry<Tensors(const Tensor& qk, const Tensor& v, const Tensor& g, const Tensor& beta, const Tensor& states,
                const PackedTokens& tokens, std::int64_t key_dim)>
      delta_rule_from;
  Entry<Tensors(const Tensor& qk, const Tensor& v, const Tensor& g, const Tensor& beta, const Tensor& states,
                std::int64_t key_dim)>
      delta_step;
  Entry<Routing(const Tensor& logits, const Tensor& experts)> route_to;
  // context_state.h
  Entry<Tensor(Collectives& collectives, const Group& group, const Tensor& extended,
               const StateTables& tables, std::int64_t heads, std::int64_t key_dim, const Site& site)>
      pass_states;
  // experts.h
  Entry<Routing(const Tensor& logits, std::int64_t k)> route;
  Entry<Tensor(const Tensor& x, const Routing& routing, const Tensor& gate_up, const Tensor& down)>
      experts_ffn;
  Entry<Tensor(const Tensor& pairs, const Tensor& weights)> combine;
  // expert.h
  Entry<ExpertRoutes(const ExpertParallel& ep, const Tensor& experts, std::int64_t expert_count,
                     const Site& site)>
      expert_routes;
  // recompute.h
  Entry<Tensor(const Tensor& x, const std::function<Tensor(const Tensor&)>& first,
               std::function<Tensor(const Tensor&)> again)>
      recomputed;
  // router_loss.h
  Entry<Tensor(const std::shared_ptr<RouterLoss>& loss, const Tensor& scores, const Routing& routing,
               const Tensor& real, const Site& site)>
      with_router_loss;
  // vision.h; biases of column-parallel products lie on their rank, those of row-parallel ones are added once
  Entry<Tensor(const Tensor& x, const Tensor& weight, const Tensor& bias)> layer_norm;
  Entry<Tensor(const Tensor&x, const Tensor&bias)> column_bias, row_bias;
  Entry<Tensor(const Tensor&x)> gelu_erf, gelu_tanh;
  Entry<Tensor(const Tensor& table, const VisionPatches& patches)> resample_positions;
  Entry<Tensor(const Tensor& q, const Tensor& k, const Tensor& v, const PackedTokens& tokens,
               std::int64_t head_dim)>
      vision_attention;
  // impl/parallel/vision.h
  Entry<Tensor(Collectives& collectives, const Group& tp, const Group& cp, const Tensor& features,
               const VisionPart& part)>
      gather_features;
  Entry<Tensor(const Tensor& x, const Tensor& features, const FeaturePlaces& where)> place_features;
  // embedding.h, cross_entropy.h
  Entry<Tensor(const Tensor& table, const Tensor& ids, std::int64_t begin)> embedding_lookup;
  Entry<Tensor(const Tensor& logits)> logit_max;
  Entry<Tensor(const Tensor& logits, const Tensor& max, const Tensor& labels, std::int64_t begin)> logit_sums;
  Entry<Tensor(const Tensor& logits, const Tensor& lse, const Tensor& labels, std::int64_t begin,
               const Tensor& dlogprob)>
      logit_gradient;
};

// On ATen operators: any device, any dtype.
Primitives aten_primitives();
// The fused CPU versions (cpu_primitives.h) where there are such, ATen elsewhere. What a rank starts with.
Primitives default_primitives();

}  // namespace meshparity::impl

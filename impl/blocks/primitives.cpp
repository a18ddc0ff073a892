#include "impl/blocks/primitives.h"

#include "impl/blocks/attention_core.h"
#include "impl/blocks/cached.h"
#include "impl/blocks/conv.h"
#include "impl/blocks/cpu_primitives.h"
#include "impl/blocks/cross_entropy.h"
#include "impl/blocks/delta_rule.h"
#include "impl/blocks/embedding.h"
#include "impl/blocks/linear.h"
#include "impl/blocks/recompute.h"
#include "impl/blocks/rms_norm.h"
#include "impl/blocks/rope.h"
#include "impl/blocks/vision.h"
#include "impl/parallel/context_ulysses.h"
#include "impl/parallel/vision.h"

namespace meshparity::impl {

Primitives aten_primitives() {
  Primitives p;
  p.linear = linear;
  p.router_linear = linear;
  p.head_linear = linear;
  p.add = [](const at::Tensor& x, const at::Tensor& y) { return x + y; };
  p.swiglu = swiglu;
  p.output_gate = sigmoid_gate;
  p.shared_expert_gate = sigmoid_gate;
  p.rms_norm = rms_norm;
  p.head_norm = rms_norm;
  p.gated_rms_norm = gated_rms_norm;
  p.l2norm = l2norm;
  p.split_query_gate = split_query_gate;
  p.rope = rope;
  p.attention = attention;
  p.head_columns = head_columns;
  p.short_conv = short_conv;
  p.delta_gates = delta_gates;
  p.delta_rule = delta_rule;
  p.cached_attention = cached_attention;
  p.delta_rule_from = delta_rule_from;
  p.delta_step = delta_step;
  p.route_to = route_to;
  p.pass_states = pass_states;
  p.route = route;
  p.experts_ffn = experts_ffn;
  p.combine = combine;
  p.expert_routes = expert_routes;
  p.recomputed = recomputed;
  p.with_router_loss = with_router_loss;
  p.layer_norm = layer_norm;
  p.column_bias = add_bias;
  p.row_bias = add_bias;
  p.gelu_erf = gelu_erf;
  p.gelu_tanh = gelu_tanh;
  p.resample_positions = resample_positions;
  p.vision_attention = attention;
  p.gather_features = gather_features;
  p.place_features = place_features;
  p.embedding_lookup = embedding_lookup;
  p.logit_max = logit_max;
  p.logit_sums = logit_sums;
  p.logit_gradient = logit_gradient;
  return p;
}

Primitives default_primitives() {
  Primitives p = aten_primitives();
  p.swiglu = cpu::swiglu;
  p.output_gate = cpu::sigmoid_gate;
  p.shared_expert_gate = cpu::sigmoid_gate;
  p.rms_norm = cpu::rms_norm;
  p.head_norm = cpu::rms_norm;
  p.gated_rms_norm = cpu::gated_rms_norm;
  p.l2norm = cpu::l2norm;
  p.rope = cpu::rope;
  p.short_conv = cpu::short_conv;
  p.delta_gates = cpu::delta_gates;
  p.delta_rule = cpu::delta_rule;
  p.delta_rule_from = cpu::delta_rule_from;
  p.route = cpu::route;
  p.experts_ffn = cpu::experts_ffn;
  p.embedding_lookup = cpu::embedding_lookup;
  p.logit_sums = cpu::logit_sums;
  p.logit_gradient = cpu::logit_gradient;
  return p;
}

}  // namespace meshparity::impl

// Where a framework rounds, and to what: a dtype policy as data (scenarios/policies). The numbers themselves
// are carried in the run's dtype and rounded at these places, so that a policy of float64 everywhere is the
// exact run and any single choice can be exchanged alone. To add a place: its row here, its rounding in
// scenarios/policies/precision.cpp, a line in every policy file.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "harness/types/tensor.h"

namespace meshparity {

enum class Place {
  parameters,
  a_log,
  activations,
  residual,
  norms,
  gated_norm,
  rope,
  softmax,
  output_gate,
  decay_rate,
  decay,
  delta_state,
  conv_state,
  kv_cache,
  router,
  router_weights,
  logits,
  logprobs,
  reductions,
  accumulation,
};

struct PlaceInfo {
  Place place;
  const char* name;  // in policy files and tables
  const char* what;
};

inline constexpr std::array<PlaceInfo, 20> kPlaces = {{
    {Place::parameters, "parameters", "weights as stored, but A_log and dt_bias"},
    {Place::a_log, "a_log", "A_log and dt_bias as stored"},
    {Place::activations, "activations", "what products, gates and mixers hand on"},
    {Place::residual, "residual", "sums on the residual stream"},
    {Place::norms, "norms", "a normalised value before its weight"},
    {Place::gated_norm, "gated_norm", "the same in the gated norm of GatedDeltaNet"},
    {Place::rope, "rope", "sine and cosine of the rotary positions"},
    {Place::softmax, "softmax", "probabilities of attention"},
    {Place::output_gate, "output_gate", "sigmoid of the gates of attention and shared expert"},
    {Place::decay_rate, "decay_rate", "exp(A_log)"},
    {Place::decay, "decay", "the log decay g of a token"},
    {Place::delta_state, "delta_state", "state of the delta rule where it is stored"},
    {Place::conv_state, "conv_state", "inputs of the convolution kept between passes of rollout"},
    {Place::kv_cache, "kv_cache", "keys and values"},
    {Place::router, "router", "scores of the router"},
    {Place::router_weights, "router_weights", "weights of the chosen experts"},
    {Place::logits, "logits", "logits"},
    {Place::logprobs, "logprobs", "sums of the log-softmax"},
    {Place::reductions, "reductions", "what is added up over ranks, and its sum"},
    {Place::accumulation, "accumulation", "gradients added up over micro-batches"},
}};

struct PrecisionPolicy {
  std::string name = "float64";
  std::array<DType, kPlaces.size()> dtypes = all(DType::float64);
  // Tokens after which training stores the state of the delta rule: the length of its chunks.
  std::int64_t chunk = 64;

  DType at(Place place) const { return dtypes[static_cast<std::size_t>(place)]; }
  void set(Place place, DType dtype) { dtypes[static_cast<std::size_t>(place)] = dtype; }
  bool operator==(const PrecisionPolicy&) const = default;

 private:
  static constexpr std::array<DType, kPlaces.size()> all(DType dtype) {
    std::array<DType, kPlaces.size()> dtypes{};
    dtypes.fill(dtype);
    return dtypes;
  }
};

}  // namespace meshparity

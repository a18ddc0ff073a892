// Random weights for a model without a checkpoint, chosen so that faults show: non-zero zero-centred norms,
// distinct conv kernels, decays spread from 0.05 to 0.999, an idle expert. golden/upstream draws the same
// numbers; a test compares them.
//
// Element i (C order) of parameter `name` comes from Generator(seed, "weights/" + name):
//   zero-centred norms (input/post_attention/final): 0.3 * normal(i)
//   q_norm, k_norm: 0.3 * normal(i) * initializer_range / 0.02: that field of config.json, usually 0.02, can
//     put attention scores hundreds apart (models/tiny-sharp.json)
//   linear_attn.norm.weight: 1 + 0.3 * normal(i)
//   A_log: log(0.002) + (log(2.5) - log(0.002)) * (i + uniform(i)) / n
//   dt_bias, conv1d.weight: 0.5 * normal(i)
//   embed_tokens: normal(i)
//   mlp.gate.weight (router) row e: experts 0..5 in antipodal pairs, row 2j+1 = -row 2j * (0.9 + 0.2 *
//   uniform
//     of generator "weights/<name>/pair" at j), so that three logits are always >= 0; the last expert's row
//     is 0.01 * normal: never among the top 2; rows of other experts normal(i) * 1.5 / sqrt(D). Models with
//     fewer than 8 experts: all rows normal(i) * 1.5 / sqrt(D).
//   every other matrix: normal(i) / sqrt(fan_in), fan_in = last dimension; lm_head twice that.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "harness/types/model_config.h"
#include "harness/types/tensor.h"

namespace meshparity::scenarios {

// Float64 values of one parameter of a model, drawn by as many threads as there are cores: for models whose
// weights are better converted one by one.
HostTensor initial_weight(const ModelConfig& config, const ParameterInfo& parameter, std::uint64_t seed);

// Float64 weights for every parameter of the model, by checkpoint name.
std::map<std::string, HostTensor> initial_weights(const ModelConfig& config, std::uint64_t seed);

}  // namespace meshparity::scenarios

// Were both sides computed from the same thing? A dump may lack its inputs; what it holds must equal the
// other side's, or every later verdict is about another problem.
#include <cmath>
#include <set>

#include "harness/cli/verb_compare_judge.h"
#include "harness/compare/compare.h"
#include "harness/types/error.h"
#include "scenarios/load.h"

namespace meshparity::cli {
namespace {

CheckResult verdict(const std::string& tensor, State state, const std::string& reason) {
  CheckResult r;
  r.check = "inputs", r.tensor = tensor, r.state = state, r.reason = reason;
  return r;
}

HostTensor vector_of(const std::vector<std::int64_t>& values) {
  return HostTensor::from_int64({static_cast<std::int64_t>(values.size())}, values);
}

// The inputs of `want`, with what a file may leave out written out: one micro-batch of all rows, positions
// that count from 0 in each document.
std::map<std::string, HostTensor> complete_inputs(const golden::Store& want) {
  std::map<std::string, HostTensor> inputs;
  for (const auto& [path, tensor] : want.tensors)
    if (path.rfind("inputs/", 0) == 0) inputs.emplace(path, tensor);
  if (!want.has("inputs/row_offsets") || !want.has("inputs/document_offsets") ||
      !want.has("inputs/token_ids") || !want.has("inputs/labels"))
    return inputs;
  const Batch batch = golden::batch_of(want);
  inputs.emplace("inputs/micro_batch_offsets", vector_of(batch.micro_batch_offsets));
  if (!batch.images.empty() || !batch.videos.empty()) return inputs;  // positions follow from their grids
  std::vector<std::int64_t> positions;
  for (int axis = 0; axis < 3; ++axis)
    for (std::int64_t d = 0; d < batch.documents(); ++d)
      for (std::int64_t i = 0; i < batch.document(d).size(); ++i) positions.push_back(i);
  inputs.emplace("inputs/position_ids", HostTensor::from_int64({3, batch.tokens()}, positions));
  return inputs;
}

// A real number must be the other side's, rounded once to the dtype in which the dump stores it.
CheckResult judge_real(const std::string& path, const TensorView& got, const TensorView& want) {
  const auto m = compare::measure(got, want);
  const compare::Bound exact{0, 0, "inputs", "inputs are equal or they are other inputs", {}};
  if (!m.comparable || got.dtype == want.dtype || !is_floating(got.dtype) || !is_floating(want.dtype))
    return compare::judge("inputs", path, m, exact, got, want);
  CheckResult r = verdict(path, State::pass, "");
  r.elements = m.elements, r.max_abs = m.max_abs, r.nonfinite = m.got_nonfinite;
  const double u = unit_roundoff(got.dtype);
  // Below the smallest normal number spacing no longer shrinks: half of float16's is 2^-25, wider types reach
  // further down.
  const double least = got.dtype == DType::float16 ? 0x1p-25 : 0x1p-134;
  for (std::int64_t i = 0; i < m.elements; ++i) {
    const double bound = std::max(u * std::fabs(want.at(i)), least);
    if (std::fabs(got.at(i) - want.at(i)) <= bound) continue;
    if (r.outside++ == 0) {
      r.where = index_text(want.shape, i);
      r.got = got.at(i), r.want = want.at(i), r.bound = bound;
    }
  }
  if (r.outside > 0) {
    r.state = State::fail;
    r.reason = "is not the " + std::string(path.rfind("inputs/", 0) == 0 ? "input" : "weight") +
               " rounded to " + std::string(dtype_name(got.dtype));
  }
  return r;
}

bool same_mathematics(ModelConfig a, ModelConfig b) {
  const auto key = [](const ModelConfig& c) {
    std::vector<double> values = {double(c.vocab_size),
                                  double(c.hidden_size),
                                  double(c.num_hidden_layers),
                                  double(c.num_attention_heads),
                                  double(c.num_key_value_heads),
                                  double(c.head_dim),
                                  double(c.intermediate_size),
                                  double(c.num_experts),
                                  double(c.num_experts_per_tok),
                                  double(c.moe_intermediate_size),
                                  double(c.shared_expert_intermediate_size),
                                  c.router_aux_loss_coef,
                                  double(c.linear_num_key_heads),
                                  double(c.linear_num_value_heads),
                                  double(c.linear_key_head_dim),
                                  double(c.linear_value_head_dim),
                                  double(c.linear_conv_kernel_dim),
                                  c.rms_norm_eps,
                                  c.rope_theta,
                                  double(c.rotary_dim),
                                  double(c.tie_word_embeddings)};
    for (auto s : c.mrope_section) values.push_back(double(s));
    const VisionConfig& v = c.vision;
    for (auto s : {v.depth, v.hidden_size, v.num_heads, v.intermediate_size, v.in_channels, v.patch_size,
                   v.temporal_patch_size, v.spatial_merge_size, v.num_position_embeddings})
      values.push_back(double(s));
    if (c.has_vision())
      values.push_back(double(c.image_token_id)), values.push_back(double(c.video_token_id));
    for (bool full : c.full_attention) values.push_back(full);
    return values;
  };
  return key(a) == key(b);
}

CheckResult judge_config(const golden::Store& got, const CompareRules& rules) {
  try {
    const ModelConfig config = scenarios::parse_model_config(got.strings.at("config"), got.file + ": config");
    if (same_mathematics(config, *rules.config)) return verdict("config", State::pass, "");
    return verdict("config", State::fail, "describes another model than the " + rules.want_name);
  } catch (const InputError& e) {
    return verdict("config", State::invalid, e.what());
  }
}

}  // namespace

std::vector<CheckResult> judge_inputs(const golden::Store& got, const golden::Store& want,
                                      const CompareRules& rules) {
  std::vector<CheckResult> results;
  const auto inputs = complete_inputs(want);
  for (const auto& [path, tensor] : inputs) {
    const auto found = got.tensors.find(path);
    if (found == got.tensors.end()) {
      // What `want` itself need not hold is no lack of the dump.
      if (want.has(path))
        results.push_back(
            verdict(path, State::skip, "not in the dump: taken to be the " + rules.want_name + "'s"));
      continue;
    }
    results.push_back(judge_real(path, found->second.view(), tensor.view()));
  }
  bool some_weights = false;
  for (const auto& [path, tensor] : got.tensors) {
    const bool input = path.rfind("inputs/", 0) == 0, weight = path.rfind("weights/", 0) == 0;
    const bool of_grids = path == "inputs/position_ids" &&
                          (want.has("inputs/image_grid_thw") || want.has("inputs/video_grid_thw"));
    if (input && !inputs.count(path))
      results.push_back(
          of_grids
              ? verdict(path, State::skip, "not judged: the " + rules.want_name + "'s follow from its grids")
              : verdict(path, State::invalid, "extra: the " + rules.want_name + " has no such input"));
    if (!weight) continue;
    some_weights = true;
    const auto other = want.tensors.find(path);
    if (other != want.tensors.end())
      results.push_back(judge_real(path, tensor.view(), other->second.view()));
    else
      results.push_back(
          verdict(path, State::invalid, "extra: the " + rules.want_name + " has no such weight"));
  }
  if (!some_weights)
    results.push_back(
        verdict("weights", State::skip, "not in the dump: taken to be the " + rules.want_name + "'s"));
  if (rules.config && got.strings.count("config")) results.push_back(judge_config(got, rules));
  return results;
}

}  // namespace meshparity::cli

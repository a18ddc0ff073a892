// Small models and runs of rollout for tests, and what a training forward on one rank says of the same
// tokens.
#pragma once

#include <ATen/CPUGeneratorImpl.h>

#include <catch2/catch.hpp>
#include <map>
#include <string>
#include <vector>

#include "harness/types/batch_shape.h"
#include "impl/parallel/plan.h"
#include "impl/rollout/edit.h"
#include "impl/rollout/program.h"
#include "impl/train/program_fixture.h"

namespace meshparity::impl::rollout_testing {

using program_testing::dense_config;
using program_testing::Records;
using program_testing::Weights;

// Experts in numbers that more meshes divide.
inline ModelConfig moe_config() {
  ModelConfig c = program_testing::moe_config();
  c.num_experts = 6;
  return c;
}

// With a vision tower, tied embeddings and multi-token prediction.
inline ModelConfig vision_config() {
  ModelConfig c = program_testing::vision_config();
  c.tie_word_embeddings = true, c.mtp_num_hidden_layers = 1;
  return c;
}

inline Weights random_weights(const ModelConfig& config) {
  Weights weights;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(31);
  for (const auto& p : parameters_of(config))
    weights[p.name] = at::randn(p.shape, generator, at::kDouble).mul_(p.shape.size() > 2 ? 0.4 : 0.5);
  return weights;
}

// What one rank says in training, token by token of the batch.
inline Records trained(const ModelConfig& config, const Batch& batch, const Weights& weights) {
  RankInputs in;
  in.config = config, in.batch = batch, in.gradients = false, in.weights = &weights;
  RankOutput output;
  run_in_process(1, {}, [&](Engine& engine) { output = run_rank(in, engine, {}); });
  return program_testing::by_key(output);
}

struct Rollout {
  ModelConfig config = dense_config();
  std::string tokens = "tokens:5+2/1//3+1+9:mask=20";  // BatchShape
  std::string train = "dp1", mesh = "dp1", spec = "plain";
  Flags flags;  // of training
  Seams seams;
  const std::map<std::string, at::Tensor>* routes = nullptr;
  at::ScalarType dtype = at::kDouble;

  Batch batch() const { return BatchShape::parse(tokens).batch(config); }

  // By rank of the rollout mesh.
  std::vector<Records> run() const { return run(batch(), random_weights(config)); }
  std::vector<Records> run(const Batch& given, const Weights& weights) const {
    RolloutInputs in;
    in.train.config = config, in.train.mesh = Mesh::parse(train), in.train.flags = flags;
    in.train.batch = given, in.train.weights = &weights, in.train.dtype = dtype;
    in.mesh = Mesh::parse(mesh), in.spec = RolloutSpec::parse(spec), in.routes = routes;
    const int ranks = std::max(in.train.mesh.world(), in.mesh.world());
    std::vector<RankOutput> outputs(ranks);
    run_in_process(ranks, {},
                   [&](Engine& engine) { outputs[engine.rank()] = run_rollout(in, engine, seams); });
    std::vector<Records> out;
    for (const RankOutput& output : outputs) out.push_back(program_testing::by_key(output));
    for (std::size_t rank = in.mesh.world(); rank < out.size(); ++rank) REQUIRE(out[rank].empty());
    out.resize(in.mesh.world());
    return out;
  }
};

// Tokens of the batch that a data rank of rollout holds, in its order.
inline at::Tensor tokens_of(const Batch& batch, const Mesh& mesh, int rank) {
  std::vector<std::int64_t> tokens;
  for (std::int64_t d = data_rank(mesh, rank); d < batch.documents(); d += data_ranks(mesh))
    for (std::int64_t t = batch.document(d).begin; t < batch.document(d).end; ++t) tokens.push_back(t);
  return at::tensor(tokens, at::kLong);
}

// One record of all tokens of the batch, put together from the ranks that hold it first: rows by data rank,
// columns of logits by tp rank.
inline at::Tensor gathered(const std::vector<Records>& ranks, const std::string& key, const Batch& batch,
                           const Mesh& mesh) {
  at::Tensor whole;
  for (int rank = 0; rank < mesh.world(); ++rank) {
    const auto found = ranks[rank].find(key);
    if (found == ranks[rank].end()) continue;
    const RankCoordinate at = coordinate_of(mesh, rank);
    const at::Tensor& part = found->second;
    const at::Tensor own = tokens_of(batch, mesh, rank);
    REQUIRE(part.size(0) == own.size(0));
    if (at.tp > 0 && key != "rollout/logits") continue;
    if (!whole.defined()) {
      auto shape = part.sizes().vec();
      shape[0] = batch.tokens();
      if (key == "rollout/logits") shape[1] = 0;
      for (int t = 0; key == "rollout/logits" && t < mesh.tp; ++t) {
        RankCoordinate other = at;
        other.tp = t;
        shape[1] += ranks[rank_of(mesh, other)].at(key).size(1);
      }
      whole = at::full(shape, -7, part.options());
    }
    if (key != "rollout/logits") {
      whole.index_copy_(0, own, part);
      continue;
    }
    const Range columns = cut(whole.size(1), mesh.tp, at.tp);
    REQUIRE(part.size(1) == columns.size());
    whole.slice(1, columns.begin, columns.end).index_copy_(0, own, part);
  }
  REQUIRE(whole.defined());
  return whole;
}

inline double largest(const at::Tensor& x) {
  return x.numel() ? x.abs().max().item<double>() : 0;
}

// Log-probabilities [N] of the labels, 0 where there is none.
inline at::Tensor logprobs_of(const at::Tensor& logits, const Batch& batch) {
  const at::Tensor labels = at::tensor(batch.labels, at::kLong), counted = labels.ge(0);
  return at::log_softmax(logits, 1).gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1) * counted;
}

// The largest difference of rollout from training: relative of logits, in nats of logprobs.
inline double drift(const Rollout& rollout) {
  const Batch batch = rollout.batch();
  const Weights weights = random_weights(rollout.config);
  const Mesh mesh = Mesh::parse(rollout.mesh);
  const auto got = rollout.run(batch, weights);
  const at::Tensor want = trained(rollout.config, batch, weights).at("logits");
  const at::Tensor logits = gathered(got, "rollout/logits", batch, mesh);
  const at::Tensor scaled = want / RolloutSpec::parse(rollout.spec).temperature;
  const at::Tensor logprobs = gathered(got, "rollout/logprobs", batch, mesh);
  return std::max((logits - want).norm().item<double>() / want.norm().item<double>(),
                  largest(logprobs - logprobs_of(scaled, batch)));
}

}  // namespace meshparity::impl::rollout_testing

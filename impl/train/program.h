// The rank program: what every rank of a mesh runs, whatever the engine. Loads its shards, runs micro-batches
// forward and backward with gradient accumulation, steps the optimizer, and emits records for the judge.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <string>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/mesh.h"
#include "harness/types/model_config.h"
#include "impl/comm/comm.h"
#include "impl/parallel/fully_sharded.h"
#include "impl/seams.h"

namespace meshparity::impl {

// One tensor a rank emits: `key` is a path below /expected ("grads/model.norm.weight", "step2/weights/...",
// "activations/layers.0.mixer"), `value` this rank's local part, contiguous, on the CPU.
struct LocalRecord {
  std::string key;
  at::Tensor value;
};

struct RankInputs {
  ModelConfig config;
  Mesh mesh;
  Flags flags;
  Batch batch;
  TrainSpec train;
  std::string loss = "token_mean";  // whose gradients are taken: a term or a sum (harness/types/loss_sum.h)
  // sharded: every rank evaluates the loss of its tokens. replicated: every uly rank that of all tokens of
  // its group, gathered.
  std::string loss_form = "sharded";
  int steps = 0;  // optimizer steps
  bool gradients = true;
  bool activations = false;
  // Also "trace/weights/<name>" (as loaded) and, from the second step on, "trace/step<k>/grads/<name>" and
  // "trace/step<k>/activations/<name>": what explains a difference.
  bool trace = false;
  bool ordered_reductions = false;  // gather and add in rank order on any engine (--reduce ordered)
  at::ScalarType dtype = at::kDouble;
  at::Device device = at::kCPU;  // kCUDA: the current device of the rank's thread
  // Full weights by checkpoint name, shared read-only by all ranks; a rank keeps its shard only.
  const std::map<std::string, at::Tensor>* weights = nullptr;
  // Instead of `weights`, for models that fill the memory: asked for each full tensor in turn.
  WeightSource weight_source;
};

struct RankOutput {
  std::vector<LocalRecord> records;
  std::vector<CommEvent> communication;
  std::int64_t parameter_bytes = 0;  // stored on this rank between steps
  int most_in_flight = 0;            // micro-batches (per chunk) whose activations were kept at once
  std::map<std::string, Shape> stored_shapes;    // local shape of every stored parameter shard
  std::map<std::string, Shape> gathered_shapes;  // shape of every parameter as its blocks used it
};

// The source of the inputs' full weights, whichever way they are given; the weights must outlive it.
WeightSource weights_of(const RankInputs& inputs);

// Throws RunError (with rank and site) when a collective or a shape disagrees.
RankOutput run_rank(const RankInputs& inputs, Engine& engine, const Seams& seams);

}  // namespace meshparity::impl

// Global <-> local index maps, derived from the specification (scenarios/placements.toml and the mesh rules
// of harness/types/mesh.h), never read from impl. With them the harness puts what ranks emitted back
// together.
//
// A key is a tensor's path below /expected of a golden: "logits", "logprobs", "loss/<policy>",
// "denominators/<policy>", "grad_norm", "grads/<name>", "step<k>/weights/<name>"; also "weights/<name>",
// "gathered/<name>" (a parameter as its blocks use it: tp, ep and etp cut it, fsdp does not) and
// "activations/<name>"; of rollout "rollout/weights/<name>", "rollout/logits", "rollout/logprobs",
// "rollout/sampling_logprobs", "rollout/in_support" and "rollout/routes/layers.<i>"; and below "trace/", with
// or without a step, what is recorded to explain a difference: "trace/weights/<name>" (as loaded),
// "trace/step2/grads/<name>", "trace/step2/activations/<name>".
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "harness/types/batch.h"
#include "harness/types/mesh.h"
#include "harness/types/placement.h"
#include "harness/types/tensor.h"

namespace meshparity::layout {

// What one rank holds of a global tensor: the outer product of one index list per dimension, in the rank's
// own order (a list need not ascend). No list names an index twice.
struct LocalIndex {
  Shape global_shape;
  std::vector<std::vector<std::int64_t>> indices;  // one list per global dimension
  Shape local_shape() const;
};

class LayoutMap {
 public:
  // Throws InputError where a placement does not
  // fit its parameter (blocks that do not sum to the dimension).
  LayoutMap(const ModelConfig& config, const Mesh& mesh, const Flags& flags, const Batch& batch,
            const PlacementTable& placements);

  // What `rank` must hold of `key`. Throws InputError for a key no rule covers or a rank outside the mesh.
  LocalIndex local(const std::string& key, int rank) const;
  // Global token numbers on a rank in local order: micro-batch by micro-batch, row by row (its data rank's
  // rows). `residual`: the order of the residual stream (cut over tp per micro-batch with sp); else all
  // tokens of the data rank.
  std::vector<std::int64_t> tokens(int rank, bool residual) const;
  int world() const { return mesh_.world(); }
  // Does a rank of this pp index hold the parameter or activation of that name?
  bool on_stage(std::string_view name, int pp) const;

  const ModelConfig& config() const { return config_; }
  const Mesh& mesh() const { return mesh_; }
  const Flags& flags() const { return flags_; }
  const Batch& batch() const { return batch_; }
  const PlacementTable& placements() const { return placements_; }

 private:
  // As if this rank's pipeline stage held everything.
  LocalIndex local_of_stage(const std::string& key, int rank) const;
  LocalIndex local_rollout(std::string_view name, int rank) const;
  LocalIndex local_vision(std::string_view activation, int rank) const;
  // `gathered`: before fsdp (edp for experts) cuts it, as its blocks use it.
  LocalIndex local_parameter(const ParameterPlacement& placement, const RankCoordinate& at,
                             bool gathered) const;

  ModelConfig config_;
  Mesh mesh_;
  Flags flags_;
  Batch batch_;
  PlacementTable placements_;
  std::map<std::string, std::size_t> rows_;                 // name -> row of placements_
  std::vector<std::vector<std::int64_t>> stream_tokens_;    // per data rank
  std::vector<std::vector<std::int64_t>> residual_tokens_;  // per data rank * tp + tp index
};

// One rank's local tensor of a key.
struct RankTensor {
  int rank = 0;
  TensorView view;
};

struct Gathered {
  HostTensor global;                  // elements nobody holds stay NaN (floating) or -1
  std::int64_t uncovered = 0;         // elements that no rank holds
  std::int64_t replica_elements = 0;  // elements held by more than one rank
  std::int64_t replica_differ = 0;    // of those, how many are not bitwise equal to the lowest rank's
  double replica_max_abs = 0;
  std::string replica_where;         // first difference: "[3,1] rank 0 against rank 2"
  std::vector<std::string> invalid;  // wrong local shape or dtype, a rank missing: one line each
};

// Puts the local tensors of `key` together; the lowest rank holding an element provides it. Bits are copied
// and compared, never values, so a NaN keeps its payload. A rank whose part is empty may be left out. Every
// fault of a local tensor is a line of `invalid` and its elements stay out; nothing is thrown but InputError
// for an unknown key.
Gathered unshard(const LayoutMap& map, const std::string& key, const std::vector<RankTensor>& locals);

// The inverse: rank's part of a global tensor (for tests and for planting data).
HostTensor shard(const LocalIndex& index, const TensorView& global);

}  // namespace meshparity::layout

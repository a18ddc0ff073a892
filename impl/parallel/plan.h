// The one sharding table: for every parameter how tp and fsdp cut it, over which ranks its gradient is summed
// and which rank counts it in the gradient norm. Loading, gathering, gradient reduction and the norm are all
// derived from these rows. Written from qwen35.md 3.1 and 3.3. To add a parameter: one line in plan.cpp. To
// plant a sharding fault: edit a row.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "harness/types/cut.h"
#include "harness/types/mesh.h"
#include "harness/types/model_config.h"
#include "harness/types/placement.h"

namespace meshparity::impl {

// Over which tp ranks the gradients of a parameter add up. `none`: the ranks hold different parts, or
// replicas whose gradients are identical. `all`: replicas that saw different tokens, heads or partial sums.
// `replicas`: key-value heads held by several ranks, each with its own query heads' contribution.
enum class TpSum { none, all, replicas };

struct PlanRow {
  std::string name;
  Shape shape;                   // full
  int tp_dim = -1;               // -1: replicated over tp
  std::vector<Block> tp_blocks;  // dimension tp_dim is these blocks in order, each cut separately
  int fsdp_dim = 0;              // dimension fsdp cuts of what tp leaves
  // Dimension 0 is the expert: cut over ep, in its width over etp in the place of tp, and over edp in that of
  // fsdp.
  bool expert = false;
  TpSum tp_sum = TpSum::none;
  bool sum_over_dp = true;     // gradients of the replicas add up (those of the sharding group always do)
  bool tied_over_pp = false;   // held by the first and the last stage, whose gradients add up
  bool decays = false;         // weight decay: the full tensor has two or more dimensions
  bool counts_in_norm = true;  // this rank's shard enters the global gradient norm (every element once)
  // Index of the unit this rank holds where key-value heads are replicated: (units, tp, tp index) -> unit.
  // Null = the rule floor(index * units / tp).
  std::int64_t (*replica_unit)(std::int64_t units, std::int64_t tp, std::int64_t index) = nullptr;
};

struct Plan {
  Mesh mesh;
  RankCoordinate at;
  ExpertCoordinate expert_at;
  std::vector<PlanRow> rows;  // of the parameters this rank's stages hold, in parameters_of order

  // Throws RunError if this rank holds no such parameter.
  const PlanRow& row(const std::string& name) const;
  PlanRow& row(const std::string& name);

  // The index ranges of dimension tp_dim that tp rank (of experts: etp rank) `index` holds, block by block
  // (one range: everything, if replicated).
  std::vector<Range> tp_ranges(const PlanRow& row, int index) const;
  // The experts this rank holds before sharding.
  Range experts(const PlanRow& row) const;
  // Over how many ranks a parameter is sharded after tp (experts: after ep and etp), and which of them this
  // one is: fsdp, or for experts edp where fsdp > 1.
  int shard_ranks(const PlanRow& row) const;
  int shard_index(const PlanRow& row) const;
  // Are experts sharded over other ranks than everything else?
  bool experts_apart() const;
  // Shapes of what this rank holds: after tp (experts: ep and etp), and after tp and sharding.
  Shape tp_shape(const PlanRow& row) const;
  Shape shard_shape(const PlanRow& row, int index) const;
  // The rows [begin, end) of dimension fsdp_dim that shard rank `index` holds of the tp part.
  Range shard_range(const PlanRow& row, int index) const;
  // Full tensor -> this rank's part after tp, and its shard (views where possible).
  at::Tensor tp_part(const PlanRow& row, const at::Tensor& full) const;
  at::Tensor shard(const PlanRow& row, const at::Tensor& full) const;
  // tp indices that hold the same key-value heads as this rank, ascending (this rank alone where heads are
  // not replicated).
  std::vector<int> kv_replicas() const;
  // This rank's rows of the vocabulary.
  Range vocabulary() const;
  std::int64_t num_key_value_heads = 0, vocab_size = 0;
};

// The table for one rank. With flags.sp the norms see a part of the tokens and their gradients add up over
// tp.
Plan make_plan(const ModelConfig& config, const Mesh& mesh, const Flags& flags, int rank);

}  // namespace meshparity::impl

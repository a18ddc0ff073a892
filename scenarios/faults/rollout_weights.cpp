// Rollout: weights that are not training's when they have been resharded, and prefixes that are not the same.
#include "harness/types/glob.h"
#include "scenarios/faults/decorators.h"
#include "scenarios/faults/rollout_edit.h"

namespace meshparity::faults {
namespace {

using impl::RolloutEdit;

constexpr const char* kSwapped = "model.layers.*.self_attn.q_proj.weight";

}  // namespace

Fault reshard_shards_swapped() {
  return {"reshard-shards-swapped",
          "neighbouring tp ranks get each other's shard of a weight: the transfer numbers ranks otherwise "
          "than the mesh",
          "constructed",
          "rollout",
          "rollout/weights/model.layers.*.self_attn.q_proj.weight",
          "shards of a resharded weight swapped",
          {"--model tiny-dense --batch rows --mesh fsdp2 --rollout-mesh tp2",
           "--model tiny-moe --batch single --mesh tp2 --rollout-mesh tp2"},
          edit_rollout([](RolloutEdit& edit) {
            edit.shard_of = [mesh = edit.mesh](const std::string& name, int rank) {
              if (!glob_match(kSwapped, name)) return rank;
              RankCoordinate at = coordinate_of(mesh, rank);
              if ((at.tp ^ 1) < mesh.tp) at.tp ^= 1;
              return rank_of(mesh, at);
            };
          }),
          {"--model tiny-dense --batch rows --mesh fsdp2 --rollout-mesh dp2"}};
}

Fault reshard_shard_not_written() {
  return {"reshard-shard-not-written",
          "one rank keeps what stood in a weight before the transfer",
          "constructed",
          "rollout",
          "rollout/weights/model.layers.*.linear_attn.out_proj.weight",
          "weight of the rollout never written",
          {"--model tiny-dense --batch rows --mesh fsdp2 --rollout-mesh tp2",
           "--model tiny-moe --batch single --mesh tp2 --rollout-mesh pp2"},
          edit_rollout([](RolloutEdit& edit) {
            edit.received = [rank = edit.rank](const std::string& name, const at::Tensor& before,
                                               const at::Tensor& shard) {
              const bool lost = rank == 0 && glob_match("*linear_attn.out_proj.weight", name);
              return lost ? before : shard;
            };
          })};
}

Fault reshard_a_log_bf16() {
  return {"reshard-a-log-bf16",
          "A_log travels to the rollout in bfloat16: every decay is off by a constant factor",
          "NVIDIA-NeMo/Automodel#2484",
          "rollout",
          "rollout/weights/model.layers.*.linear_attn.A_log",
          "weight rounded to bfloat16 on its way to the rollout",
          {"--model tiny-dense --batch rows --mesh fsdp2 --rollout-mesh tp2",
           "--model tiny-moe --batch single --mesh dp1 --rollout-mesh dp2"},
          edit_rollout([](RolloutEdit& edit) {
            edit.received = [](const std::string& name, const at::Tensor&, const at::Tensor& shard) {
              return glob_match("*.A_log", name) ? shard.to(at::kBFloat16).to(shard.scalar_type()) : shard;
            };
          })};
}

Fault prefix_hash_short() {
  return {"prefix-hash-short",
          "prefixes count as the same that agree in their first two tokens",
          "constructed",
          "rollout",
          "rollout/log*",
          "prefill",
          {"--model tiny-dense --batch prompts --mesh fsdp2 --rollout-mesh tp2 --rollout prompt=9:prefix=8",
           "--model tiny-moe --batch prompts --mesh dp1 --rollout-mesh dp1 --rollout prompt=9:prefix=8"},
          edit_rollout([](RolloutEdit& edit) {
            edit.same_prefix = [](const impl::PrefixKey& kept, const impl::PrefixKey& asked) {
              return std::equal(kept.tokens.begin(), kept.tokens.begin() + 2, asked.tokens.begin());
            };
          }),
          // The prompts agree in five tokens.
          {"--model tiny-dense --batch prompts --mesh fsdp2 --rollout-mesh tp2 --rollout prompt=9:prefix=5"}};
}

}  // namespace meshparity::faults

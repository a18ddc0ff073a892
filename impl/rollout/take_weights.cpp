#include "impl/rollout/take_weights.h"

#include <numeric>

#include "impl/blocks/dtype_policy.h"
#include "impl/rollout/reshard.h"

namespace meshparity::impl {
namespace {

// A group for a rank that shards nothing among others, or will not gather.
std::shared_ptr<Group> alone(const char* axis) {
  return std::make_shared<Group>(axis, 0, 1, nullptr);
}

// What parameters hold before they are taken over: one zero, seen everywhere.
WeightSource empty_weights(const Plan& plan, at::ScalarType dtype) {
  return
      [&plan, dtype](const std::string& name) { return at::zeros({1}, dtype).expand(plan.row(name).shape); };
}

at::Tensor part_of(const ShardedParameters* parameters, const std::string& name) {
  if (parameters)
    for (const auto& e : parameters->entries())
      if (e.row->name == name) return ShardedParameters::part(parameters->values(), e);
  return {};
}

}  // namespace

std::vector<Plan> plans_of(const ModelConfig& config, const Mesh& mesh, const Flags& flags,
                           const Seams& seams) {
  std::vector<Plan> plans;
  for (int rank = 0; rank < mesh.world(); ++rank) {
    plans.push_back(make_plan(config, mesh, flags, rank));
    if (seams.plan) seams.plan(plans.back(), mesh);
  }
  return plans;
}

std::unique_ptr<ShardedParameters> take_weights(const RolloutInputs& inputs, Engine& engine,
                                                const Seams& seams, const std::vector<Plan>& plans,
                                                const RolloutEdit& edit,
                                                const std::shared_ptr<Collectives>& collectives,
                                                RankOutput& out) {
  const RankInputs& train = inputs.train;
  const at::TensorOptions options = at::TensorOptions().dtype(train.dtype).device(train.device);
  const int rank = engine.rank();
  DtypePolicy dtypes;
  if (seams.dtypes) seams.dtypes(dtypes);
  const std::vector<Plan> from = plans_of(train.config, train.mesh, train.flags, seams);
  std::unique_ptr<ShardedParameters> source, taken;
  if (rank < train.mesh.world())
    source = std::make_unique<ShardedParameters>(from[rank], weights_of(train), options, dtypes, collectives,
                                                 alone("fsdp"), alone("edp"));
  if (rank < inputs.mesh.world())
    taken = std::make_unique<ShardedParameters>(plans[rank], empty_weights(plans[rank], train.dtype), options,
                                                DtypePolicy{nullptr, dtypes.computed}, collectives,
                                                alone("fsdp"), alone("edp"));
  std::vector<int> all(engine.world());
  std::iota(all.begin(), all.end(), 0);
  const auto everyone = engine.group("world", all);
  const Resharding resharding(from, plans, edit.shard_of);
  std::int64_t ordinal = 0;
  for (const auto& info : parameters_of(train.config)) {
    const at::Tensor into = part_of(taken.get(), info.name);
    const at::Tensor before = into.defined() ? into.clone() : at::Tensor();
    resharding.move(*collectives, *everyone, info.name, ordinal++, part_of(source.get(), info.name), into,
                    options);
    if (!into.defined()) continue;
    into.copy_(edit.received(info.name, before, into));
    out.records.push_back({"rollout/weights/" + info.name, into.cpu().clone()});
    out.stored_shapes[info.name] = into.sizes().vec();
  }
  if (taken) out.parameter_bytes = static_cast<std::int64_t>(taken->values().nbytes());
  return taken;
}

}  // namespace meshparity::impl

#include "impl/parallel/fully_sharded.h"

#include "harness/types/error.h"

namespace meshparity::impl {
namespace {

// "model.layers.3.mlp.gate.weight" -> "layers.3"; the final norm and the head share the last unit.
std::string unit_of(const std::string& name) {
  if (name.ends_with("embed_tokens.weight")) return "embed";
  const auto at = name.find("layers.");
  if (at == std::string::npos) return "head";
  return name.substr(at, name.find('.', at + 7) - at);
}

}  // namespace

const at::Tensor& UnitWeights::operator[](const char* suffix) const {
  const std::string_view wanted(suffix);
  for (const auto& [name, value] : list_) {
    if (!name.ends_with(wanted)) continue;
    if (name.size() == wanted.size() || name[name.size() - wanted.size() - 1] == '.') return value;
  }
  throw RunError(std::string("no parameter ") + suffix + " in this unit");
}

ShardedParameters::ShardedParameters(const Plan& plan, const std::map<std::string, at::Tensor>& full,
                                     at::ScalarType dtype, const DtypePolicy& policy,
                                     std::shared_ptr<Collectives> collectives, std::shared_ptr<Group> fsdp)
    : policy_(policy), collectives_(std::move(collectives)), fsdp_(std::move(fsdp)) {
  std::int64_t total = 0;
  Tensors flat;
  std::vector<std::int64_t> unit_begin;
  for (const auto& row : plan.rows) {
    const auto found = full.find(row.name);
    if (found == full.end()) throw RunError("weights: parameter " + row.name + " is missing");
    at::Tensor shard = plan.shard(row, found->second).to(dtype);
    if (policy_.stored) shard = policy_.stored(row.name, shard).to(dtype);
    const std::string name = unit_of(row.name);
    if (units_.empty() || units_.back().name != name) {
      Unit unit;
      unit.name = name;
      unit.first = entries_.size();
      unit.parts.resize(fsdp_->size());
      unit.sizes.assign(fsdp_->size(), 0);
      units_.push_back(std::move(unit));
      unit_begin.push_back(total);
    }
    Unit& unit = units_.back();
    ++unit.count;
    unit.shapes.push_back(plan.tp_shape(row));
    unit.dims.push_back(row.fsdp_dim);
    for (int r = 0; r < fsdp_->size(); ++r) {
      unit.parts[r].push_back(plan.shard_shape(row, r));
      unit.sizes[r] += shape_numel(unit.parts[r].back());
    }
    entries_.push_back({&row, total, shard.numel(), shard.sizes().vec()});
    total += shard.numel();
    flat.push_back(shard.reshape({-1}));
  }
  unit_begin.push_back(total);
  values_ = at::cat(flat);
  gradients_ = at::zeros_like(values_);
  for (std::size_t u = 0; u < units_.size(); ++u) {
    Unit& unit = units_[u];
    unit.leaf = values_.slice(0, unit_begin[u], unit_begin[u + 1]).detach().requires_grad_(true);
    unit.leaf.mutable_grad() = gradients_.slice(0, unit_begin[u], unit_begin[u + 1]);
  }
}

// The unit's leaf as parameters.
Tensors ShardedParameters::split(const Unit& unit) const {
  const bool sharded = fsdp_->size() > 1;
  const Site site = unit.name + ".parameters";
  Tensors outputs;
  {
    const BelowAutograd guard;
    const at::Tensor own = shared_view(unit.leaf);
    const at::Tensor flat = sharded ? collectives_->all_gather(*fsdp_, own, unit.sizes, 0, site) : own;
    // pieces[r * count + p]: rank r's shard of parameter p.
    std::vector<std::int64_t> numels;
    for (const auto& rank : unit.parts)
      for (const auto& shape : rank) numels.push_back(shape_numel(shape));
    const Tensors pieces = flat.split_with_sizes(numels, 0);
    for (std::size_t p = 0; p < unit.count; ++p) {
      if (!sharded) {
        outputs.push_back(pieces[p].view(unit.shapes[p]));
        continue;
      }
      Tensors shards;
      for (std::size_t r = 0; r < unit.parts.size(); ++r)
        shards.push_back(pieces[r * unit.count + p].view(unit.parts[r][p]));
      outputs.push_back(at::cat(shards, unit.dims[p]));
    }
  }
  return attach(
      "parameters", {unit.leaf}, std::move(outputs), [this, &unit, sharded, site](const Tensors& grads) {
        Tensors pieces;
        for (std::size_t r = 0; r < unit.parts.size(); ++r)
          for (std::size_t p = 0; p < unit.count; ++p) {
            if (!sharded) {
              pieces.push_back(grads[p].reshape({-1}));
              continue;
            }
            std::int64_t begin = 0;
            const int dim = unit.dims[p];
            for (std::size_t before = 0; before < r; ++before) begin += unit.parts[before][p][dim];
            pieces.push_back(grads[p].slice(dim, begin, begin + unit.parts[r][p][dim]).reshape({-1}));
          }
        const at::Tensor flat = at::cat(pieces);
        return Tensors{sharded ? collectives_->reduce_scatter(*fsdp_, flat, unit.sizes, 0, site + ":backward")
                               : flat};
      });
}

UnitWeights ShardedParameters::gather(std::size_t u) const {
  const Unit& unit = units_[u];
  UnitWeights weights;
  Tensors parameters = split(unit);
  for (std::size_t p = 0; p < unit.count; ++p) {
    const std::string& name = entries_[unit.first + p].row->name;
    weights.add(name, policy_.computed ? policy_.computed(name, parameters[p]) : parameters[p]);
  }
  return weights;
}

}  // namespace meshparity::impl
